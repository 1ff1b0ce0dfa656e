"""How much results depend on the training run: backbones and heads trained from scratch, on the same prompts.

    python benchmarks/training_seeds.py --out docs/results/training_seeds.json

A backbone takes about 45 minutes on one core and a head about 20. Every part is kept in the work folder, and the
same command resumes where it was interrupted. Backbone 0 is the shipped one, trained in float32, and head 0 of it the
shipped head. The other backbones compute products in bfloat16 while they are trained.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

import demask_hf
from demask_hf.evaluation import Outcome, evaluate, parse_settings
from demask_hf.files import write_json
from demask_hf.tasks import FAMILIES
from demask_hf.tiny.backbone import NUM_STEPS, BackboneTrainer
from demask_hf.tiny.head import build_head


SETTINGS = ("sequential", "threshold", "entropy_bound", "demask:order=confidence", "demask:order=influence")


def backbone_of(seed: int, work: Path) -> tuple[Any, Any]:
    """Return a backbone and its tokenizer, trained if it is not the shipped one."""
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    folder = work / f"backbone-{seed}"
    if seed == 0:
        folder = Path(demask_hf.TINY_DREAM)
    elif not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        trainer = BackboneTrainer(seed, NUM_STEPS, folder / "state.pt", "cpu", is_mixed=True)
        trainer.run()
        trainer.trained.save_pretrained(folder)
    return AutoModel.from_pretrained(folder).eval(), tokenizer


def load_head(model: Any, tokenizer: Any, backbone: int, seed: int, work: Path) -> dict[str, Any]:
    """Give the model a head, trained if it is not the shipped one; return its fit and what it cost."""
    if (backbone, seed) == (0, 0):
        model.load_demask_head(demask_hf.TINY_DEMASK)
        return json.loads((Path(demask_hf.TINY_DEMASK) / "fit.json").read_text(encoding="utf-8"))
    folder = work / f"head-{backbone}-{seed}"
    if not (folder / "fit.json").exists():
        started = time.process_time()
        # Seeds of heads differ between backbones, too, so that no two heads see the same states.
        head, fit = build_head(model, tokenizer, 100 * backbone + seed, folder)
        head.save_pretrained(folder)
        write_json(folder / "fit.json", {**fit, "cpu_seconds": time.process_time() - started})
    model.load_demask_head(folder)
    return json.loads((folder / "fit.json").read_text(encoding="utf-8"))


def decoded(model: Any, tokenizer: Any, settings: list[str], num_prompts: int, seed: int) -> dict[str, dict[str, Any]]:
    """Return accuracy and passes of each setting, over all families and by family."""
    names = [name for name in FAMILIES if name != "parity"]
    examples = [example for name in names for example in FAMILIES[name].distinct("test", num_prompts, seed)]
    found = {}
    for text in settings:
        (setting,) = parse_settings(text)
        outcome = Outcome.of_records(evaluate(model, tokenizer, examples, setting.strategy, **setting.options))
        families = {name: outcome.only([name]) for name in names}
        found[text] = {
            "accuracy": outcome.accuracy,
            "forward_passes": outcome.mean_forward_passes,
            "families": {
                name: {"accuracy": own.accuracy, "forward_passes": own.mean_forward_passes}
                for name, own in families.items()
            },
        }
    return found


def main() -> None:
    """Train and decode what is missing, and write the results after each head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("build/training_seeds"), help="folder of the resumable state"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results/training_seeds.json"))
    parser.add_argument("--backbones", type=int, nargs="+", default=[0, 1, 2], help="seeds of the backbones")
    parser.add_argument("--heads", type=int, nargs="+", default=[0, 1], help="seeds of the heads of each backbone")
    parser.add_argument("--num-prompts", type=int, default=100, help="test prompts of each family")
    parser.add_argument("--prompt-seed", type=int, default=1001, help="seed of the test prompts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    for backbone in arguments.backbones:
        model, tokenizer = backbone_of(backbone, arguments.work)
        shared: dict[str, dict[str, Any]] = {}
        for head in arguments.heads:
            fit = load_head(model, tokenizer, backbone, head, arguments.work)
            # What reads no head is decoded once for each backbone.
            wanted = [text for text in SETTINGS if text.startswith("demask") or not shared]
            found = decoded(model, tokenizer, wanted, arguments.num_prompts, arguments.prompt_seed)
            shared = shared or {text: values for text, values in found.items() if not text.startswith("demask")}
            runs.append({"backbone": backbone, "head": head, "fit": fit, "settings": {**shared, **found}})
            facts = {"num_prompts": arguments.num_prompts, "prompt_seed": arguments.prompt_seed}
            write_json(arguments.out, {**facts, "runs": runs})
            print(f"backbone {backbone}, head {head}: written to {arguments.out}", flush=True)


if __name__ == "__main__":
    main()
