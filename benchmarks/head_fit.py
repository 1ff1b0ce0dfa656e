"""Fit of the shipped head on each task family, next to predictors that read no state, and what the head cost.

    python benchmarks/head_fit.py --out docs/results/head_fit.json

Dependencies are measured in validation states, half masked at random and half visited by decoding, and compared with
the head and with three means over training states of the same family: of all pairs, by signed distance, and by the
places of source and target in the answer (a table). The cost is that of the recipe in `demask_hf.tiny`: probe forwards
and processor time are measured on a few batches and multiplied by their number. Takes about ten minutes on one core.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from family_states import ANSWER_LENGTH, NAMES, load_backbone

import demask_hf
from demask_hf import DemaskHead
from demask_hf.files import write_json
from demask_hf.tasks import FAMILIES, TaskExample
from demask_hf.tiny.head import (
    NUM_HELD_OUT_BATCHES,
    NUM_RANDOM_BATCHES,
    NUM_VISITED_BATCHES,
    STATES_PER_BATCH,
    StateSampler,
)
from demask_hf.training.examples import DependencyExample, collate_examples
from demask_hf.training.metrics import area_under_curve


# Measured pairs of one family: source and target as places in the answer, and the dependency.
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


class FamilySampler(StateSampler):
    """Draws states of one family and knows where their answers begin."""

    def of_family(self, name: str, index: int, split: str, is_visited: bool) -> list[tuple[int, DependencyExample]]:
        """Return measured states, each with the position at which its answer begins."""
        random = Random(f"{name}/{index}/{split}/{is_visited}")
        stream = FAMILIES[name].examples(split, seed=random.getrandbits(48))
        # Prompts of one length at a time: then every state of a call begins its answer at the same position.
        prompts: dict[int, list[TaskExample]] = {}
        for example in (next(stream) for _ in range(STATES_PER_BATCH)):
            prompts.setdefault(len(self.tokenizer(example.prompt)["input_ids"]), []).append(example)
        found = []
        for start, examples in sorted(prompts.items()):
            generator = torch.Generator().manual_seed(random.getrandbits(62))
            found += [(start, state) for state in self.measure_prompts(examples, random, generator, is_visited)]
        return found


def pairs_of(states: Iterable[tuple[int, DependencyExample]]) -> Pairs:
    """Return the measured pairs of states, without the diagonal."""
    parts = []
    for start, state in states:
        places = (state.positions - start).numpy()
        source, target = np.meshgrid(places[state.sources.numpy()], places, indexing="ij")
        is_pair = source != target
        parts.append((source[is_pair], target[is_pair], state.targets.float().numpy()[is_pair]))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def predicted_by(head: DemaskHead, states: list[tuple[int, DependencyExample]]) -> np.ndarray:
    """Return the head's predictions for the pairs of [`pairs_of`]."""
    parts = []
    for _, state in states:
        with torch.no_grad():
            found = head(**collate_examples([state])).dependencies[0][state.sources]
        is_pair = state.sources[:, None] != torch.arange(state.positions.numel())
        parts.append(found[is_pair].numpy())
    return np.concatenate(parts)


def mean_by(key: Callable[[np.ndarray, np.ndarray], np.ndarray], training: Pairs, held_out: Pairs) -> np.ndarray:
    """Predict the mean of the training pairs with the same key; the overall mean where there is none."""
    keys, inverse = np.unique(key(*training[:2]), return_inverse=True)
    means = dict(zip(keys.tolist(), (np.bincount(inverse, training[2]) / np.bincount(inverse)).tolist(), strict=True))
    overall = float(training[2].mean())
    return np.array([means.get(each, overall) for each in key(*held_out[:2]).tolist()])


def fit(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Return R^2, mean absolute error, and the area under the curve of "above 0.1"."""
    error = predicted - measured
    return {
        "r2": float(1 - (error**2).mean() / max(measured.var(), 1e-12)),
        "mae": float(np.abs(error).mean()),
        "auc": area_under_curve(predicted, measured > 0.1),
    }


def by_family(sampler: FamilySampler, head: DemaskHead, num_batches: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the fits on each family."""
    for name in NAMES:
        kinds = [(index, is_visited) for index in range(num_batches) for is_visited in (False, True)]
        states = {
            split: [state for index, kind in kinds for state in sampler.of_family(name, index, split, kind)]
            for split in ("train", "validation")
        }
        training, held_out = (pairs_of(each) for each in states.values())
        predictions = {
            "head": predicted_by(head, states["validation"]),
            "table": mean_by(lambda source, target: source * ANSWER_LENGTH + target, training, held_out),
            "distance": mean_by(lambda source, target: target - source, training, held_out),
            "mean": mean_by(lambda source, target: 0 * source, training, held_out),
        }
        fits = {label: fit(predicted, held_out[2]) for label, predicted in predictions.items()}
        yield name, {"num_states": len(states["validation"]), "num_pairs": len(held_out[2]), **fits}


def price(model: Any, tokenizer: Any) -> dict[str, float]:
    """Return what the measured states of the recipe cost, from two batches of each kind."""
    sampler = StateSampler(model, tokenizer, 0)
    forward, num_rows = sampler.backbone.predict, 0

    def counted(request: Any) -> Any:
        nonlocal num_rows
        num_rows += len(request.sequences)
        return forward(request)

    sampler.backbone.predict = counted  # type: ignore[method-assign]
    started, num_states = time.process_time(), 0
    for index in range(2):
        for is_visited in (False, True):
            num_states += len(sampler.measure(index, "train", is_visited))
    seconds = time.process_time() - started
    total = STATES_PER_BATCH * (NUM_RANDOM_BATCHES + NUM_VISITED_BATCHES + 2 * NUM_HELD_OUT_BATCHES)
    return {
        "num_states": total,
        "row_forwards_of_a_state": num_rows / num_states,
        "row_forwards": total * num_rows / num_states,
        "cpu_hours_of_states": total * seconds / num_states / 3600,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/head_fit.json"))
    parser.add_argument("--num-batches", type=int, default=2, help=f"batches of {STATES_PER_BATCH} states of a kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_backbone()
    head = model.load_demask_head(demask_hf.TINY_DEMASK)
    families = {}
    for name, found in by_family(FamilySampler(model, tokenizer, 7), head, arguments.num_batches):
        families[name] = found
        print(
            name, " ".join(f"{label} {found[label]['r2']:.3f}" for label in ("head", "table", "distance")), flush=True
        )
    write_json(arguments.out, {"families": families, "price": price(model, tokenizer)})


if __name__ == "__main__":
    main()
