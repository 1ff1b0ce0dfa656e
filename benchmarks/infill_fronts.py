"""Forward passes of each rule at equal loss, with what they depend on the rows that were decoded."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np


# The rule that the others are compared with: it was chosen on held-out rows.
LEARNED = "demask, partition"
_CONFIDENCE = 0.95
_LIMIT = re.compile(r" ?\d+(\.\d+)?( steps)?")


def rule_of(setting: str) -> str:
    """Return the name of a setting without its limit."""
    return _LIMIT.sub("", setting, count=1).rstrip(",")


def size_of(record: dict[str, Any]) -> int:
    """Return how many tokens were written; residues are single letters."""
    return record.get("num_written", len(record["written"]))


def front_rows(found: dict[str, list[dict[str, Any]]], losses: Sequence[float]) -> list[dict[str, Any]]:
    """Return for each rule how many passes it takes to lose so many nats a token, between two of its limits.

    Standard errors and intervals are those of the jackknife over the rows (Efron and Stein, Ann. Statist. 9, 1981).
    All rules decode the same rows, so a ratio of passes varies less than they do.

    Args:
        found (`dict[str, list[dict]]`): What each setting wrote, in the same rows.
        losses (`Sequence[float]`): The losses.

    Returns:
        `list[dict]` with the `rule`, its `passes` by loss with their standard error, and its `ratio` by loss: how many
        times the passes of `LEARNED` these are, with both ends of the interval. A loss that a rule does not reach in
        either direction is left out.
    """
    by_rule: dict[str, list[list[dict[str, Any]]]] = {}
    for setting, records in found.items():
        by_rule.setdefault(rule_of(setting), []).append(records)
    curves = {rule: _passes(settings, losses) for rule, settings in by_rule.items()}
    rows = []
    for rule, curve in curves.items():
        row: dict[str, Any] = {"rule": rule, "passes": {}, "ratio": {}}
        for column, loss in enumerate(losses):
            own = curve[:, column]
            if np.isnan(own[0]):
                continue
            row["passes"][loss] = (float(own[0]), _jackknife_error(own[1:]))
            other = curves.get(LEARNED, curve)[:, column]
            if rule != LEARNED and not np.isnan(other[0]):
                row["ratio"][loss] = _ratio(own, other)
        rows.append(row)
    return rows


def _passes(settings: list[list[dict[str, Any]]], losses: Sequence[float]) -> np.ndarray:
    """Return mean passes of a rule at each loss over all rows, then without each row; NaN if out of its reach."""
    points = np.array(
        [[(own["divergence"] / size_of(own), own["num_forward_passes"]) for own in records] for records in settings]
    )
    whole, num_rows = points.mean(axis=1), points.shape[1]
    without = (points.sum(axis=1, keepdims=True) - points) / max(num_rows - 1, 1)
    means = np.concatenate([whole[:, None], without], axis=1)
    found = np.stack([np.interp(losses, *_in_order(means[:, index])) for index in range(num_rows + 1)])
    is_reached = (np.array(losses) >= whole[:, 0].min()) & (np.array(losses) <= whole[:, 0].max())
    found[:, ~is_reached] = np.nan
    return found


def _in_order(points: np.ndarray) -> np.ndarray:
    """Return losses in ascending order, and their passes."""
    return points[np.lexsort(points.T[::-1])].T


def _jackknife_error(without: np.ndarray) -> float:
    """Return the standard error of an estimate from its values without each row."""
    return float(np.sqrt((len(without) - 1) * without.var())) if len(without) > 1 else float("nan")


def _ratio(own: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Return a ratio of passes with its interval, which is symmetric in its logarithm."""
    from scipy.stats import t

    log = np.log(own) - np.log(other)
    half = t.ppf((1 + _CONFIDENCE) / 2, max(len(log) - 2, 1)) * _jackknife_error(log[1:])
    return tuple(float(value) for value in np.exp([log[0], log[0] - half, log[0] + half]))  # type: ignore[return-value]
