"""Masked positions in as few sets as a bound allows, each to be unmasked in one pass."""

from collections.abc import Callable

import torch

from .dependency import degree, low_dependency_subset, ranks


# Numbers of sets that are tried together: most states need no more.
_NUM_TOGETHER = 8


def low_dependency_partition(
    dependencies: torch.Tensor,
    scores: torch.Tensor,
    eligible: torch.Tensor,
    bound: float,
    rule: str = "token",
    symmetric: bool = False,
) -> torch.Tensor:
    """Part the positions into as few sets as the rule allows, with little dependency within each.

    For each number of sets, positions go, those with the largest [`~dependency.degree`] first, to the set on whose
    positions they depend least, by the mean of both directions; in a tie to the first of these. So positions that
    depend on each other are kept apart, and sets come out about equally large. This is the greedy rule for the
    maximum k-cut of a graph (Sahni and Gonzalez, J. ACM 23, 1976): at most a k-th of all dependencies lies within the
    sets. The first number at which every set satisfies the rule of [`~dependency.low_dependency_subset`] is taken.

    A walk that keeps all that it may leaves small sets to the last passes, and a large one costs much: pairs within it
    grow with the square of its size. Where dependencies are alike, equal sets lose less in as many passes.

    Args:
        dependencies (`torch.Tensor` of shape `(batch, positions, positions)`):
            `D[source, target]`, in [0, 1]; the diagonal is ignored.
        scores (`torch.Tensor` of shape `(batch, positions)`):
            The rule counts dependencies from high to low scores; ties go to the lower index.
        eligible (`torch.BoolTensor` of shape `(batch, positions)`):
            Positions to part.
        bound (`float`):
            Upper limit of the rule in every set, at least 0.
        rule (`str`, *optional*, defaults to `"token"`):
            "total", "token", "norm" or "max".
        symmetric (`bool`, *optional*, defaults to `False`):
            Use `max(D[i, j], D[j, i])` instead of `D[i, j]`.

    Returns:
        `torch.LongTensor` of shape `(batch, positions)`: number of the set of each position, from 0; -1 for positions
        that are not eligible.
    """
    # 1. Pairs of positions, what keeps them apart, and what the rule counts.
    if symmetric:
        dependencies = torch.maximum(dependencies, dependencies.transpose(1, 2))
    is_pair = eligible[:, :, None] & eligible[:, None, :]
    is_pair &= ~torch.eye(eligible.shape[1], dtype=torch.bool, device=eligible.device)
    # A dependency that is not a number keeps its positions apart.
    pairs = torch.where(is_pair, dependencies.float().nan_to_num(nan=1.0), 0.0)
    weights = (pairs + pairs.transpose(1, 2)) / 2
    places = ranks(scores)
    earlier = torch.where(places[:, :, None] < places[:, None, :], pairs, 0.0)
    order = degree(pairs, eligible).masked_fill(~eligible, -1.0).argsort(dim=-1, descending=True, stable=True)
    # 2. More and more sets, until all rows are done. One set for each position always satisfies the rule.
    counts = eligible.sum(dim=-1)
    longest = int(counts.max()) if counts.numel() else 0
    found = torch.zeros_like(order)
    is_open = torch.ones_like(counts, dtype=torch.bool)
    for first in range(1, longest + 1, _NUM_TOGETHER):
        numbers = torch.arange(first, first + _NUM_TOGETHER, device=counts.device)
        rows = is_open.nonzero().squeeze(-1)
        sets = _spread(weights[rows], order[rows, :longest], numbers)
        each = [_is_allowed(earlier[rows], sets[:, column], bound, rule) for column in range(len(numbers))]
        is_allowed = torch.stack(each, dim=-1) | (numbers >= counts[rows, None])
        found[rows] = sets[torch.arange(len(rows), device=rows.device), is_allowed.int().argmax(dim=-1)]
        is_open[rows] = ~is_allowed.any(dim=-1)
        if not is_open.any():
            break
    return found.masked_fill(~eligible, -1)


def best_set(
    dependencies: torch.Tensor,
    scores: torch.Tensor,
    eligible: torch.Tensor,
    bound: float,
    rule: str = "token",
    symmetric: bool = False,
) -> torch.Tensor:
    """Return the set of [`low_dependency_partition`] with the highest mean score, in a tie that of the lower index.

    Takes the arguments of [`low_dependency_partition`].

    Returns:
        `torch.BoolTensor` of shape `(batch, positions)`: a subset of `eligible` that satisfies the rule.
    """
    sets = low_dependency_partition(dependencies, scores, eligible, bound, rule, symmetric)
    is_same = sets[:, :, None] == sets[:, None, :]
    sums = torch.where(is_same & eligible[:, None, :], scores.double()[:, None, :], 0.0).sum(dim=-1)
    means = (sums / is_same.sum(dim=-1)).masked_fill(~eligible, float("-inf"))
    return eligible & (sets == sets.gather(-1, means.argmax(dim=-1, keepdim=True)))


#: Which set a step unmasks, by name: a maximal one along the walk, or one of a partition.
SELECTIONS: dict[str, Callable[..., torch.Tensor]] = {"walk": low_dependency_subset, "partition": best_set}


def _spread(weights: torch.Tensor, order: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Put each position, in order, into the set with the smallest sum of weights to it.

    Returns:
        `torch.LongTensor` of shape `(rows, len(numbers), positions)`: the set, for each number of sets.
    """
    num_rows, num_positions = weights.shape[:2]
    largest = int(numbers[-1])
    sums = weights.new_zeros(num_rows, len(numbers), largest, num_positions)
    is_missing = torch.arange(largest, device=weights.device) >= numbers[:, None]
    sets = order.new_zeros(num_rows, len(numbers), num_positions)
    row = torch.arange(num_rows, device=weights.device)
    rows, columns = row[:, None], torch.arange(len(numbers), device=weights.device)[None]
    for position in order.T:
        chosen = sums[row, :, :, position].masked_fill(is_missing, float("inf")).argmin(dim=-1)
        sums[rows, columns, chosen] += weights[row, position][:, None]
        sets[row, :, position] = chosen
    return sets


def _is_allowed(earlier: torch.Tensor, sets: torch.Tensor, bound: float, rule: str) -> torch.Tensor:
    """Return whether every set of a partition of each row satisfies the rule, shape `(rows,)`."""
    is_same = sets[:, :, None] == sets[:, None, :]
    within = earlier * is_same
    if rule == "max":
        costs = within.amax(dim=1)
    elif rule == "norm":
        costs = within.square().sum(dim=1).sqrt()
    else:
        costs = within.sum(dim=1)
        if rule == "total":
            costs = (costs[:, :, None] * is_same).sum(dim=1)
    return (costs <= bound).all(dim=-1)
