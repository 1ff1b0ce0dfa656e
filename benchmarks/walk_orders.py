"""How far the order of the walk is from the best one: exhaustive search on small states, and what orders count.

    python benchmarks/walk_orders.py --out docs/results/walk_orders.json

Small states are validation prompts with a few masked positions in their answer, the rest filled in rightly. There
every way to finish is tried, at temperature 0: in each pass any set of positions that some order of the walk would
allow under the head's bound (rule "token"). The fewest passes found so are compared with those of the orders that
`demask` offers. The sums are those over the pairs from earlier to later positions of the whole order in fully masked
answers: what the bound on one set counts. Takes about ten minutes on one core.
"""

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import torch
from family_states import ANSWER_LENGTH, load_backbone

import demask_hf
from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.files import write_json
from demask_hf.functional.dependency import (
    DEPENDENCY_ORDERS,
    dependency_bound_of,
    low_dependency_subset,
    net_influence,
)
from demask_hf.functional.distributions import certainty_of, confidence, entropy
from demask_hf.tasks import FAMILIES


# Families in which the orders differ: the others are finished in as few passes as possible by both.
NAMES = ("bill", "brackets", "shuffle", "sudoku")
ORDERS = ("confidence", *DEPENDENCY_ORDERS)


class SmallState:
    """A state with few masked positions, and what the model predicts in each state that can follow.

    Args:
        model ([`DreamModel`]): The backbone, with its head.
        sequence (`torch.LongTensor` of shape `(length,)`): Token ids, masks included.
        bound (`float`): Dependency bound of the rule "token".
    """

    def __init__(self, model: Any, sequence: torch.Tensor, bound: float):
        self.model, self.backbone, self.bound = model, Backbone.of(model), bound
        self.sequence, self.mask = sequence, model.config.mask_token_id
        self.columns = (sequence == self.mask).nonzero().squeeze(-1)
        self._known: dict[tuple[int, ...], tuple[torch.Tensor, ...]] = {}

    @torch.no_grad()
    def predictions(self, tokens: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        """Return dependencies, confidence and most likely tokens of the masked ones among the open positions."""
        if tokens not in self._known:
            sequence = self.sequence.clone()
            sequence[self.columns] = torch.tensor(tokens)
            candidates = (sequence == self.mask)[None]
            found = self.backbone.predict(PredictionRequest(sequence[None], candidates, None))
            probabilities = found.logits.float().softmax(dim=-1)
            probabilities[:, self.mask] = 0
            certainty = certainty_of(confidence(probabilities), entropy(probabilities))
            output = self.model.demask_head(
                found.hidden_states[None], positions=candidates[0].nonzero().T, certainty=certainty[None]
            )
            self._known[tokens] = (output.dependencies[0], confidence(probabilities), probabilities.argmax(dim=-1))
        return self._known[tokens]

    def after(self, tokens: tuple[int, ...], kept: torch.Tensor) -> tuple[int, ...]:
        """Return the tokens once the kept ones of the masked positions are written."""
        drawn = self.predictions(tokens)[2]
        written = list(tokens)
        for place, index in enumerate(place for place, token in enumerate(tokens) if token == self.mask):
            if kept[place]:
                written[index] = int(drawn[place])
        return tuple(written)

    def passes_of(self, order: str) -> int:
        """Return how many passes a walk in the given order needs."""
        tokens, count = (self.mask,) * len(self.columns), 0
        while self.mask in tokens:
            dependencies, sure, _ = self.predictions(tokens)
            everything = torch.ones(1, len(sure), dtype=torch.bool)
            of_order = DEPENDENCY_ORDERS.get(order)
            scores = sure[None] if of_order is None else of_order(dependencies[None], everything)
            kept = low_dependency_subset(dependencies[None], scores, everything, self.bound)
            tokens, count = self.after(tokens, kept[0]), count + 1
        return count

    def fewest_passes(self) -> int:
        """Return the fewest passes of any sequence of allowed sets, by breadth-first search."""
        level, count = {(self.mask,) * len(self.columns)}, 0
        while all(self.mask in tokens for tokens in level):
            level = {self.after(tokens, kept) for tokens in level for kept in self._allowed_sets(tokens)}
            count += 1
        return count

    def _allowed_sets(self, tokens: tuple[int, ...]) -> Iterator[torch.Tensor]:
        dependencies = self.predictions(tokens)[0].tolist()
        size = len(dependencies)
        for number in range(1, size + 1):
            for chosen in combinations(range(size), number):
                if self._is_allowed(dependencies, list(chosen)):
                    kept = torch.zeros(size, dtype=torch.bool)
                    kept[list(chosen)] = True
                    yield kept

    def _is_allowed(self, dependencies: list[list[float]], left: list[int]) -> bool:
        """Whether an order exists in which each one depends at most `bound` on those before.

        The last one must depend little on all others; whichever is taken last, the others only get easier.
        """
        while len(left) > 1:
            sums = {target: sum(dependencies[s][target] for s in left if s != target) for target in left}
            last = min(sums, key=sums.__getitem__)
            if sums[last] > self.bound:
                return False
            left.remove(last)
        return True


def small_states(model: Any, tokenizer: Any, name: str, count: int, num_masked: int, bound: float) -> list[SmallState]:
    """Return states of one family with `num_masked` neighbouring positions masked."""
    states = []
    for number, example in enumerate(FAMILIES[name].distinct("validation", count)):
        prompt, answer = (tokenizer(text)["input_ids"] for text in (example.prompt, example.answer))
        start = len(prompt) + Random(number).randrange(len(answer) - num_masked + 1)
        padding = [tokenizer.eos_token_id] * (ANSWER_LENGTH - len(answer))
        sequence = torch.tensor([*prompt, *answer, *padding])
        sequence[start : start + num_masked] = model.config.mask_token_id
        states.append(SmallState(model, sequence, bound))
    return states


def counted_sums(model: Any, tokenizer: Any, name: str, count: int) -> dict[str, float]:
    """Return the mean sum of dependencies from earlier to later positions, by order, in fully masked answers."""
    sums: dict[str, list[float]] = {}
    for example in FAMILIES[name].distinct("validation", count):
        prompt = tokenizer(example.prompt)["input_ids"]
        sequence = torch.tensor([*prompt, *[model.config.mask_token_id] * ANSWER_LENGTH])
        state = SmallState(model, sequence, 0.0)
        dependencies, sure, _ = state.predictions((state.mask,) * ANSWER_LENGTH)
        influence = net_influence(dependencies[None], torch.ones(1, ANSWER_LENGTH, dtype=torch.bool))[0]
        orders = {"confidence": sure, "influence": influence, "influence reversed": -influence}
        for label, scores in orders.items():
            order = scores.argsort(descending=True, stable=True)
            sums.setdefault(label, []).append(float(dependency_bound_of(dependencies, order)))
    return {label: mean(found) for label, found in sums.items()}


def main() -> None:
    """Search, compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/walk_orders.json"))
    parser.add_argument("--num-states", type=int, default=30, help="small states of each family")
    parser.add_argument("--num-masked", type=int, default=7, help="masked positions of a small state")
    parser.add_argument("--bound", type=float, default=0.1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_backbone()
    model.load_demask_head(demask_hf.TINY_DEMASK)
    families: dict[str, Any] = {}
    for name in NAMES:
        states = small_states(model, tokenizer, name, arguments.num_states, arguments.num_masked, arguments.bound)
        passes = {order: mean(state.passes_of(order) for state in states) for order in ORDERS}
        passes["best by search"] = mean(state.fewest_passes() for state in states)
        families[name] = {"passes": passes, "sums": counted_sums(model, tokenizer, name, arguments.num_states)}
        print(name, families[name], flush=True)
    facts = {name: getattr(arguments, name) for name in ("num_states", "num_masked", "bound")}
    write_json(arguments.out, {**facts, "families": families})


if __name__ == "__main__":
    main()
