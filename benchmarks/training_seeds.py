"""How much results depend on the training run: backbones and heads trained from scratch, on the same prompts.

    python benchmarks/training_seeds.py --out docs/results
    python benchmarks/seeds_tables.py docs/images
    python benchmarks/write_results.py

A backbone takes about 45 minutes on one core and a head about 20. Every part is kept in the work folder, and the
same command resumes where it was interrupted. Backbone 0 is the shipped one, trained in float32, and head 0 of it the
shipped head. The other backbones compute products in bfloat16 while they are trained.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

import demask_hf
from demask_hf.evaluation import Outcome, evaluate, parse_settings
from demask_hf.evaluation.archive import Archive
from demask_hf.files import keep_facts, write_json
from demask_hf.tasks import FAMILIES, TaskExample
from demask_hf.tiny.backbone import NUM_STEPS, BackboneTrainer
from demask_hf.tiny.head import build_head


LABELS = ("sequential", "threshold", "entropy_bound", "demask:order=confidence", "demask:order=influence")
SETTINGS = [setting for label in LABELS for setting in parse_settings(label)]


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


def outcomes_of(
    model: Any, tokenizer: Any, examples: Sequence[TaskExample], known: Mapping[str, Outcome]
) -> dict[str, Outcome]:
    """Return what each setting decodes, by its key; what reads no head is taken from what is known."""
    found = {}
    for setting in SETTINGS:
        if setting.strategy["name"] != "demask" and setting.key in known:
            found[setting.key] = known[setting.key]
        else:
            records = evaluate(model, tokenizer, examples, setting.strategy, **setting.options)
            found[setting.key] = Outcome.of_records(records, setting)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Train and decode what is missing, and write facts and records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("build/training_seeds"), help="folder of the resumable state"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--backbones", type=int, nargs="+", default=[0, 1, 2], help="seeds of the backbones")
    parser.add_argument("--heads", type=int, nargs="+", default=[0, 1], help="seeds of the heads of each backbone")
    parser.add_argument("--num-prompts", type=int, default=100, help="test prompts of each family")
    parser.add_argument("--prompt-seed", type=int, default=1001, help="seed of the test prompts")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    prompts = {"num_prompts": arguments.num_prompts, "prompt_seed": arguments.prompt_seed}
    keep_facts(arguments.work / "decoded" / "prompts.json", prompts, "decoding", ["*.xz"])
    families = [family for name, family in FAMILIES.items() if name != "parity"]
    examples = [
        example
        for family in families
        for example in family.distinct("test", arguments.num_prompts, arguments.prompt_seed)
    ]
    fits, outcomes = {}, {}
    for backbone in arguments.backbones:
        model, tokenizer = backbone_of(backbone, arguments.work)
        known: dict[str, Outcome] = {}
        for head in arguments.heads:
            run, file = f"backbone {backbone}, head {head}", arguments.work / "decoded" / f"{backbone}-{head}.json.xz"
            fits[run] = load_head(model, tokenizer, backbone, head, arguments.work)
            if not file.exists():
                found = outcomes_of(model, tokenizer, examples, known)
                Archive({}, [], {}, {(run, key): outcome for key, outcome in found.items()}).write(file)
            stored = Archive.read(file).outcomes
            known = {key: outcome for (_, key), outcome in stored.items()}
            outcomes |= stored
            print(f"{run}: trained and decoded", flush=True)
    (arguments.out / "records").mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "training_seeds.json", {**prompts, "fits": fits})
    Archive(prompts, [SETTINGS], {}, outcomes).write(arguments.out / "records" / "training_seeds.json.xz")


if __name__ == "__main__":
    main()
