"""What a head adds to a fixed table of dependencies: on the shipped families, and where the layout changes.

    python benchmarks/layouts.py --out docs/results/layouts.json

The walk of `demask` is run with the head, with a table of mean dependencies for each family, and with distances alone;
each family has its own table, made from training prompts. For each of them the limit with the fewest passes that loses
nothing on validation prompts is chosen and reported on test prompts. The layouts of the shipped families are fixed.
Those of `layout_families.py` change from prompt to prompt; for them a backbone of the shipped size and a head are
trained first, in about 40 minutes on one core. Every part is kept in the work folder, and the same command resumes.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from family_states import NAMES, load_backbone
from layout_families import LATIN, LINKS, MATCH

import demask_hf
from demask_hf.evaluation import Outcome, evaluate, parse_settings
from demask_hf.evaluation.comparison import choose
from demask_hf.files import write_json
from demask_hf.strategies.table import write_table
from demask_hf.tasks import FAMILIES, TaskFamily
from demask_hf.tiny.backbone import ANSWER_LENGTH, BackboneTrainer
from demask_hf.tiny.head import build_head
from demask_hf.training.table import mean_dependencies


MIXTURE = {MATCH: 0.8, LINKS: 1.4, LATIN: 1.8}
SEED = 0
# Batches of states for the head: masked at random, and visited.
NUM_BATCHES = (20, 12)
PROMPT_SEED = 2026
BOUNDS = "0.01/0.03/0.06/0.1/0.15"
REFERENCE = "sequential"
WALKS = {
    "head": f"demask:order=confidence,dependency_bound={BOUNDS}",
    "head, by influence": f"demask:order=influence,dependency_bound={BOUNDS}",
    "table": f"table:order=confidence,dependency_bound={BOUNDS}",
    "distance": "distance:gap=12/8/6/4/3/2",
    "threshold": "threshold:confidence_threshold=0.99/0.95/0.9/0.8",
}


def trained(work: Path, num_steps: int) -> tuple[Any, Any]:
    """Return backbone and tokenizer of the families with changing layouts, with a head."""
    folder = work / "backbone"
    if not (folder / "model.safetensors").exists():
        work.mkdir(parents=True, exist_ok=True)
        trainer = BackboneTrainer(SEED, num_steps, work / "state.pt", "cpu", MIXTURE)
        trainer.run()
        trainer.tokenizer.save_pretrained(folder)
        trainer.trained.save_pretrained(folder)
    model, tokenizer = load_backbone(str(folder))
    if not (work / "head" / "model.safetensors").exists():
        head, fit = build_head(model, tokenizer, SEED, work / "states", MIXTURE, NUM_BATCHES)
        head.save_pretrained(work / "head")
        (work / "head" / "fit.json").write_text(json.dumps(fit, indent=2) + "\n", encoding="utf-8")
    model.load_demask_head(work / "head")
    return model, tokenizer


def compared(  # noqa: PLR0913, the facts of a comparison
    model: Any, tokenizer: Any, family: TaskFamily, sizes: dict[str, int], work: Path, temperature: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Yield the reference and the chosen limit of each walk on one family."""
    table = work / f"{family.name}.json"
    prompts = [example.prompt for example in family.distinct("train", sizes["train"])]
    write_table(table, mean_dependencies(model, tokenizer, prompts, max_new_tokens=ANSWER_LENGTH))
    tasks = {split: family.task(split, sizes[split], PROMPT_SEED) for split in ("validation", "test")}

    def outcome(split: str, text: str) -> list[Outcome]:
        found = []
        for setting in parse_settings(text, {"max_new_tokens": ANSWER_LENGTH, "temperature": temperature}):
            fields = {**setting.strategy, **({"table": str(table)} if setting.strategy["name"] == "table" else {})}
            records = evaluate(model, tokenizer, tasks[split], fields, **setting.options)
            found.append(Outcome.of_records(records, setting))
        return found

    def row(walk: str, one: Outcome) -> dict[str, Any]:
        return {
            "family": family.name,
            "temperature": temperature,
            "walk": walk,
            "setting": one.setting.label,
            "accuracy": one.accuracy,
            "forward_passes": one.mean_forward_passes,
        }

    (reference,) = outcome("validation", REFERENCE)
    yield row("one at a time", outcome("test", REFERENCE)[0])
    for walk, text in WALKS.items():
        tried = outcome("validation", text)
        chosen = tried[choose(tried, [reference] * len(tried), margin=0.0)].setting
        yield row(walk, outcome("test", chosen.label)[0])


def main() -> None:
    """Train what is missing, compare, and write the results after each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/layouts"), help="folder of the resumable state")
    parser.add_argument("--out", type=Path, default=Path("docs/results/layouts.json"))
    parser.add_argument("--steps", type=int, default=1_500, help="optimizer steps of the backbone")
    parser.add_argument("--num-prompts", type=int, default=100, help="test prompts of each family")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    sizes = {"train": 192, "validation": 50, "test": arguments.num_prompts}
    model, tokenizer = load_backbone()
    model.load_demask_head(demask_hf.TINY_DEMASK)
    rows: list[dict[str, Any]] = []
    for name in NAMES:
        rows += compared(model, tokenizer, FAMILIES[name], sizes, arguments.work)
        write_json(arguments.out, {"sizes": sizes, "rows": rows})
        print(*rows[-1 - len(WALKS) :], sep="\n", flush=True)
    model, tokenizer = trained(arguments.work, arguments.steps)
    for temperature in (0.0, 1.0):
        for family in MIXTURE:
            rows += compared(model, tokenizer, family, sizes, arguments.work, temperature)
            write_json(arguments.out, {"sizes": sizes, "rows": rows})
            print(*rows[-1 - len(WALKS) :], sep="\n", flush=True)


if __name__ == "__main__":
    main()
