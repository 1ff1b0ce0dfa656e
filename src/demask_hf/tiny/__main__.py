"""Train backbone and head of the small checkpoint and write them to a folder; an interrupted run resumes."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from .backbone import NUM_STEPS, BackboneTrainer
from .head import build_head


def main() -> None:
    """Read the arguments, train, and write the checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m demask_hf.tiny", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/tiny"), help="folder of the resumable state")
    parser.add_argument("--out", type=Path, default=Path("src/demask_hf/assets"), help="where the checkpoint goes")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="optimizer steps of the backbone")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = BackboneTrainer(arguments.seed, arguments.steps, arguments.work / "backbone.pt", device)
    trainer.run()
    model = trainer.trained
    head, fit = build_head(model, trainer.tokenizer, arguments.seed, arguments.work)
    # Written next to the old files first, so that a failure leaves the old checkpoint intact.
    written: dict[str, tuple[Any, ...]] = {"tiny-dream": (model, trainer.tokenizer), "tiny-demask": (head,)}
    for name, parts in written.items():
        new = arguments.work / name
        for part in parts:
            part.save_pretrained(new)
        target = arguments.out / name
        target.mkdir(parents=True, exist_ok=True)
        for file in new.iterdir():
            shutil.copy2(file, target / file.name)
    (arguments.out / "tiny-demask" / "fit.json").write_text(json.dumps(fit, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
