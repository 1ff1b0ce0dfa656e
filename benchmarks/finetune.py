"""Adapt a head to a task family it was not trained on, with LoRA, on the shipped checkpoint.

    python benchmarks/finetune.py --family sudoku --out docs/results/finetune.json

A head is trained on all families but one; one adapter is trained on states of that family, another on these and as
many of the others; all are judged on held-out states and by decoding, on that family and on the others. Goes on where
it was interrupted.
"""

import argparse
import json
from pathlib import Path

from family_states import NAMES, decode_with, family_states, load_backbone
from torch.utils.data import ConcatDataset, Subset

import demask_hf
from demask_hf import DemaskHead
from demask_hf.head.adapters import add_lora, load_merged
from demask_hf.training.metrics import fit_of
from demask_hf.training.trainer import best_kept, new_head, train_head


BOUND = 0.1


def arguments_of_command() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="sudoku", choices=NAMES, help="the family that is left out")
    parser.add_argument("--work", type=Path, default=Path("build/finetune"), help="states and checkpoints")
    parser.add_argument("--out", type=Path, default=Path("docs/results/finetune.json"), help="the results")
    parser.add_argument("--num-states", type=int, default=3000, help="states of the other families")
    parser.add_argument("--num-new-states", type=int, default=600, help="states of the family")
    parser.add_argument("--steps", type=int, default=3000, help="steps of the head")
    parser.add_argument("--adapter-steps", type=int, default=600, help="steps of the adapter")
    parser.add_argument("--rank", type=int, default=4, help="rank of the adapter")
    parser.add_argument("--num-prompts", type=int, default=200, help="validation prompts of each family")
    return parser.parse_args()


def main() -> None:
    """Train head and adapter, and write the comparison."""
    arguments = arguments_of_command()
    model, tokenizer = load_backbone()
    others, work = [name for name in NAMES if name != arguments.family], arguments.work
    sets = {"others": others, arguments.family: [arguments.family]}

    def states(name: str, split: str, num_states: int, seed: int):
        return family_states(model, tokenizer, work / f"{name}-{split}", sets[name], split, num_states, seed)

    training = states("others", "train", arguments.num_states, 0)
    new = states(arguments.family, "train", arguments.num_new_states, 0)
    held_out = {name: states(name, "validation", 256, 1) for name in sets}
    head = new_head(training.facts["backbone"], 0, width=64)
    settings = {"per_device_train_batch_size": 32, "lr_scheduler_type": "cosine", "warmup_steps": 50, "seed": 0}
    settings |= {"disable_tqdm": True, "logging_strategy": "no"}
    options = {**settings, "max_steps": arguments.steps, "learning_rate": 2e-3, **best_kept(arguments.steps // 4)}
    train_head(head, training, held_out["others"], work / "head", **options)
    head.save_pretrained(work / "head" / "best")
    mixed = ConcatDataset([new, Subset(training, range(arguments.num_new_states))])
    steps = arguments.adapter_steps
    options = {**settings, "max_steps": steps, "learning_rate": 3e-3, **best_kept(steps // 4)}
    for name, states_of in (("adapter", new), ("adapter-mixed", mixed)):
        adapted = add_lora(DemaskHead.from_pretrained(work / "head" / "best"), rank=arguments.rank)
        train_head(adapted, states_of, held_out[arguments.family], work / name, **options)
        adapted.save_pretrained(work / name / "best")
    heads = {
        "head without the family": head.eval(),
        "adapted to the family": load_merged(work / "adapter" / "best").eval(),
        "adapted to the family and as many old states": load_merged(work / "adapter-mixed" / "best").eval(),
        "shipped head": DemaskHead.from_pretrained(demask_hf.TINY_DEMASK).eval(),
        "one token per forward": None,
    }
    results = {"arguments": {name: str(value) for name, value in vars(arguments).items()}, "bound": BOUND}
    results["bytes"] = {
        "head": (work / "head" / "best" / "model.safetensors").stat().st_size,
        "adapter": (work / "adapter" / "best" / "adapter_model.safetensors").stat().st_size,
    }
    for label, each in heads.items():
        results[label] = {}
        for name, families in sets.items():
            model.set_demask_head(each)
            strategy = {"name": "sequential"} if each is None else {"name": "demask", "dependency_bound": BOUND}
            found = decode_with(model, tokenizer, families, arguments.num_prompts, strategy)
            if each is not None:
                fit = fit_of(each, training if name == "others" else new, held_out[name])
                found |= {key: round(value, 4) for key, value in fit.items()}
            results[label][name] = found
            print(label, name, found, flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
