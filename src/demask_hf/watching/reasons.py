"""Why a strategy lets a candidate wait, in words: `reasons` has one answer for each strategy."""

from dataclasses import dataclass
from functools import singledispatch

import torch

from ..functional.dependency import ranks
from ..strategies import (
    DemaskStrategy,
    DenoisingStep,
    EntropyBoundStrategy,
    KlassStrategy,
    ScheduleStrategy,
    SequentialStrategy,
    ThresholdStrategy,
    UnmaskingStrategy,
)


@dataclass(frozen=True)
class Walk:
    """What the demask rule decides from: the candidates of one row that it considers.

    Args:
        columns (`list[int]`):
            Their columns.
        dependencies (`torch.Tensor` of shape `(positions, positions)`):
            `D[source, target]`, in [0, 1], as the strategy reads it.
        scores (`torch.Tensor` of shape `(positions,)`):
            The order of the walk, from high to low.
        eligible (`torch.BoolTensor` of shape `(positions,)`):
            Positions that may be kept.
    """

    columns: list[int]
    dependencies: torch.Tensor
    scores: torch.Tensor
    eligible: torch.Tensor


@dataclass(frozen=True)
class Choice:
    """What a strategy chose in a step with one row.

    Args:
        step ([`DenoisingStep`]):
            What it saw.
        selected (`torch.BoolTensor` of shape `(1, length)`):
            What it selected.
        start (`int`):
            First column that is not padding; positions are counted from it.
        walk ([`Walk`], *optional*):
            What the demask rule decided from.
    """

    step: DenoisingStep
    selected: torch.Tensor
    start: int = 0
    walk: Walk | None = None

    @property
    def waiting(self) -> list[tuple[int, int]]:
        """Index among the candidates, and position, of each candidate that was not selected."""
        columns = self.step.columns
        is_selected = self.selected[0, columns].tolist()
        pairs = zip(enumerate(columns.tolist()), is_selected, strict=True)
        return [(index, column - self.start) for (index, column), taken in pairs if not taken]


@singledispatch
def reasons(strategy: UnmaskingStrategy, choice: Choice) -> dict[int, str]:
    """Return why each candidate that was not selected waits, by its position.

    A function for the class of a strategy is added with `reasons.register`; without one the reason only says that the
    strategy did not select the position.

    Args:
        strategy ([`UnmaskingStrategy`]):
            The strategy.
        choice ([`Choice`]):
            What it saw and selected.
    """
    confidence = choice.step.score("confidence").tolist()
    name = getattr(strategy, "name", type(strategy).__name__)
    return {
        position: f"{name} does not select it: its confidence is {confidence[index]:.2g}"
        for index, position in choice.waiting
    }


@reasons.register
def _threshold(strategy: ThresholdStrategy, choice: Choice) -> dict[int, str]:
    confidence = choice.step.score("token_probability")
    if strategy.factor is None:
        limit = f"is below the threshold {strategy.confidence_threshold:g}"
        values = confidence.tolist()
        return {position: f"its probability {values[index]:.2g} {limit}" for index, position in choice.waiting}
    places = choice.step.rank(confidence)[0, choice.step.columns].tolist()
    slack = [(place + 2) * (1 - value) for place, value in zip(places, confidence.double().tolist(), strict=True)]
    # The left side grows along the order, so whoever waits is above the limit itself.
    return {
        position: f"number {places[index] + 1} by probability: (n + 1) (1 - p) = {slack[index]:.2g} is above the "
        f"factor {strategy.factor:g}"
        for index, position in choice.waiting
    }


@reasons.register
def _entropy_bound(strategy: EntropyBoundStrategy, choice: Choice) -> dict[int, str]:
    entropy = choice.step.score("entropy").clamp(min=0).double()
    places = choice.step.rank(-entropy)[0, choice.step.columns]
    sums = entropy[places.argsort()].cumsum(dim=0)[places] - entropy
    limit = f"above the bound {strategy.entropy_bound:g}"
    return {
        position: f"entropies of the positions before it sum to {float(sums[index]):.2g} nats, {limit}"
        for index, position in choice.waiting
    }


@reasons.register
def _klass(strategy: KlassStrategy, choice: Choice) -> dict[int, str]:
    confidence = choice.step.score("confidence").tolist()
    changes = (
        f"its prediction still changes: KL was not below {strategy.kl_threshold:g} nats in each of the last "
        f"{strategy.history_length} steps"
    )
    return {
        position: f"its confidence {confidence[index]:.2g} is below the threshold {strategy.confidence_threshold:g}"
        if confidence[index] < strategy.confidence_threshold
        else changes
        for index, position in choice.waiting
    }


@reasons.register
def _sequential(strategy: SequentialStrategy, choice: Choice) -> dict[int, str]:
    text = f"one position a pass, by {strategy.order}"
    return {position: text for _, position in choice.waiting}


@reasons.register
def _schedule(strategy: ScheduleStrategy, choice: Choice) -> dict[int, str]:
    count = int(choice.selected.sum())
    text = f"the schedule writes {count} in this pass, and ranks others before it (by {strategy.algorithm})"
    return {position: text for _, position in choice.waiting}


@reasons.register
def _demask(strategy: DemaskStrategy, choice: Choice) -> dict[int, str]:
    confidence = choice.step.score("confidence").tolist()
    walk = choice.walk
    if walk is None or not choice.waiting:
        return {}
    places = {column - choice.start: place for place, column in enumerate(walk.columns)}
    blocking = _BLOCKING[strategy.selection](strategy, walk, choice.selected[0, walk.columns].cpu())
    found = {}
    for index, position in choice.waiting:
        if position not in places:
            found[position] = f"not among the {strategy.max_candidates} candidates that are considered"
        elif not walk.eligible[places[position]]:
            limit = f"is below the threshold {strategy.confidence_threshold:g}"
            found[position] = f"its confidence {confidence[index]:.2g} {limit}"
        else:
            source, words = blocking[places[position]]
            found[position] = f"waits for position {walk.columns[source] - choice.start}: {words}"
    return found


def _blocking(strategy: DemaskStrategy, walk: Walk, kept: torch.Tensor) -> list[tuple[int, str]]:
    """Return for each position the kept one before it that it depends on most, and the limit it would break."""
    dependencies = walk.dependencies.float()
    if strategy.symmetric:
        dependencies = torch.maximum(dependencies, dependencies.T)
    places = ranks(walk.scores)
    is_earlier = places[:, None] < places[None, :]
    counted = torch.where(is_earlier & kept[:, None], dependencies, 0.0)
    largest, sources = counted.max(dim=0)
    costs = counted.sum(dim=0)
    # "total" also counts what the kept positions before it cost.
    spent = torch.where(is_earlier & kept[:, None], costs[:, None], 0.0).sum(dim=0)
    limit = f"above the bound {strategy.limit:g}"
    words = {
        "token": lambda own: f"sum {float(costs[own]):.2g} {limit}",
        "total": lambda own: f"total {float(costs[own] + spent[own]):.2g} {limit}",
        "norm": lambda own: f"norm {float((counted[:, own] ** 2).sum().sqrt()):.2g} {limit}",
        "max": lambda own: limit,
    }[strategy.rule]
    # The "max" rule limits D itself, so no further number is needed.
    return [
        (int(source), f"D = {float(value):.2g}, {words(own)}")
        for own, (source, value) in enumerate(zip(sources, largest, strict=True))
    ]


def _parted(strategy: DemaskStrategy, walk: Walk, kept: torch.Tensor) -> list[tuple[int, str]]:
    """Return for each position the kept one that a partition keeps it apart from most, and by what."""
    dependencies = walk.dependencies.float()
    both = torch.maximum if strategy.symmetric else lambda one, other: (one + other) / 2
    largest, sources = torch.where(kept[:, None], both(dependencies, dependencies.T), -1.0).max(dim=0)
    words = "D = {:.2g} in both directions, in another set of the partition"
    return [(int(source), words.format(float(value))) for source, value in zip(sources, largest, strict=True)]


_BLOCKING = {"walk": _blocking, "partition": _parted}
