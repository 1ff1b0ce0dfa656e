"""Find the smallest head that is within noise of the best, on the shipped checkpoint.

    python benchmarks/head_design.py --out docs/results/head_design.json

Every design is trained on the same measured states with several seeds and judged on held-out states and by decoding.
Designs and seeds that are in the results already are not run again.
"""

import argparse
import json
import os
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from family_states import NAMES, decode_with, family_states, load_backbone

from demask_hf import DemaskConfig, DemaskHead
from demask_hf.head.modeling_demask import DependencyOutput
from demask_hf.training.trainer import train_head


BOUND = 0.1
DESIGNS: dict[str, dict[str, Any]] = {
    "width 64, 1 layer": {},
    "width 32": {"width": 32},
    "width 128": {"width": 128},
    "no mixing layer": {"num_mixing_layers": 0},
    "2 mixing layers": {"num_mixing_layers": 2},
    "width 32, no mixing layer": {"width": 32, "num_mixing_layers": 0},
    "with confidence and entropy": {"reads_certainty": True},
    "width 32, with confidence and entropy": {"width": 32, "reads_certainty": True},
    "width 128, with confidence and entropy": {"width": 128, "reads_certainty": True},
    "no mixing layer, with confidence and entropy": {"num_mixing_layers": 0, "reads_certainty": True},
    "with the predicted token's embedding": {"added": "token"},
    "without relative position": {"has_distance": False},
    "squared error of square roots": {"loss": "sqrt"},
}


class DesignHead(DemaskHead):
    """A head with a further input, one input fewer, or another loss.

    Args:
        config ([`DemaskConfig`]): Its `backbone_hidden_size` counts the further input.
        model ([`DreamModel`]): The backbone, for the predictions that the hidden states stand for.
        added (`str`, *optional*): A further input, from the backbone's input embeddings: that of each position's most
            likely token ("token"), or their mean under its prediction ("mean").
        has_distance (`bool`): Whether the head sees the distance of a pair.
        loss (`str`): "bce" or "sqrt".
    """

    def __init__(self, config, model, added=None, has_distance=True, loss="bce"):
        super().__init__(config)
        # Past nn.Module: the backbone is no part of the head.
        self.__dict__["_facts"] = (model, added, has_distance, loss)

    @torch.no_grad()
    def _inputs(self, hidden_states: torch.Tensor) -> torch.Tensor:
        model, added, _, _ = self._facts
        if added is None:
            return hidden_states
        embedding = model.get_input_embeddings()
        # BERT has a layer before the embeddings, which it shares with its input.
        predict = model.cls if hasattr(model, "cls") else model.lm_head
        logits = predict(hidden_states.to(embedding.weight.dtype)).float()
        if added == "token":
            further = embedding(logits.argmax(dim=-1)).float()
        else:
            further = logits.softmax(dim=-1) @ embedding.weight.float()
        return torch.cat([hidden_states, further / further.std().clamp(min=1e-6)], dim=-1)

    def _distances(self, positions: torch.LongTensor) -> torch.IntTensor:
        distances = super()._distances(positions)
        return distances if self._facts[2] else torch.zeros_like(distances)

    def forward(
        self, hidden_states, positions, is_position=None, certainty=None, labels=None, return_dict=True
    ) -> DependencyOutput:
        is_sqrt = self._facts[3] == "sqrt"
        states = self._inputs(hidden_states.to(self.dtype))
        output = super().forward(states, positions, is_position, certainty, None if is_sqrt else labels)
        if is_sqrt and labels is not None:
            weights = (labels >= 0).float() * (1 - torch.eye(labels.shape[-1], device=labels.device))
            difference = output.logits.sigmoid().sqrt() - labels.clamp(min=0).sqrt()
            output.loss = (difference**2 * weights).sum() / weights.sum().clamp(min=1)
        return output


def build(design: dict[str, Any], model, backbone: dict[str, Any], seed: int) -> DesignHead:
    """Return an untrained head of a design."""
    special = {name: design[name] for name in ("added", "has_distance", "loss") if name in design}
    fields = {name: value for name, value in design.items() if name not in special}
    size = backbone["backbone_hidden_size"] * (1 + ("added" in special))
    torch.manual_seed(seed)
    config = DemaskConfig(**{"width": 64, **backbone, **fields, "backbone_hidden_size": size})
    return DesignHead(config, model, **special)


def run(design: dict[str, Any], seed: int, model, tokenizer, states, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one head and judge it."""
    training, held_out = states
    head = build(design, model, training.facts["backbone"], seed)
    started = time.monotonic()
    fit = train_head(
        head,
        training,
        held_out,
        arguments.work / "checkpoints",
        max_steps=arguments.steps,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    seconds = time.monotonic() - started
    # Past the check of widths: this head adds its further inputs to the hidden states by itself.
    model.__dict__["_demask_head"] = head
    decoding = decode_with(
        model, tokenizer, NAMES, arguments.num_prompts, {"name": "demask", "dependency_bound": BOUND}
    )
    fit = {key: round(value, 4) for key, value in fit.items()}
    return {"seed": seed, "parameters": head.num_parameters(), "train_seconds": round(seconds), **fit, **decoding}


def table(results: list[dict[str, Any]]) -> str:
    """Return the designs as a Markdown table, best fit first: means over seeds, and their standard deviations."""
    fields = {"r2": "{:.3f}", "mae": "{:.4f}", "auc": "{:.4f}", "accuracy": "{:.2%}", "forward_passes": "{:.3f}"}
    rows = []
    for name in dict.fromkeys(result["design"] for result in results):
        runs = [result for result in results if result["design"] == name]
        cells = [f"{runs[0]['parameters']:,}"]
        for field, form in fields.items():
            values = [run[field] for run in runs]
            spread = stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{form.format(mean(values))} ({form.format(spread)})")
        rows.append((-mean(run["r2"] for run in runs), f"| {name} | {' | '.join(cells)} |"))
    head = "| design | parameters | R^2 | MAE | AUC | right | forward passes |\n|---|---|---|---|---|---|---|"
    return "\n".join([head, *(row for _, row in sorted(rows))])


def main() -> None:
    """Read the arguments, run what is missing, and write the results after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/head_design"), help="the measured states")
    parser.add_argument("--out", type=Path, default=Path("docs/results/head_design.json"), help="the results")
    parser.add_argument("--num-states", type=int, default=4000, help="training states")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each head")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of weights and batches")
    parser.add_argument("--num-prompts", type=int, default=60, help="validation prompts of each family")
    arguments = parser.parse_args()
    model, tokenizer = load_backbone()
    training = family_states(model, tokenizer, arguments.work / "train", NAMES, "train", arguments.num_states)
    held_out = family_states(model, tokenizer, arguments.work / "validation", NAMES, "validation", 512, 1)
    results = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else []
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for name, design in DESIGNS.items():
            if any((result["design"], result["seed"]) == (name, seed) for result in results):
                continue
            found = run(design, seed, model, tokenizer, (training, held_out), arguments)
            results.append({"design": name, **found})
            temporary = arguments.out.with_suffix(".part")
            temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, arguments.out)
            print(results[-1], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
