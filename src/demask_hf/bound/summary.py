"""Summaries of measured sets: means and shares with intervals, and tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation.statistics import Interval, mean_interval, share_interval
from ..tables import Column, text_lines
from .measurement import SetMeasurement
from .verification import VerifiedState


#: Name of the selected sets of states that have other sets to compare with.
COMPARED = "selected, where more remained"


@dataclass(frozen=True)
class Verdicts:
    """How many sets have a property.

    Args:
        num_holding (`int`): Sets with the property.
        num_open (`int`): Sets whose measurement is too uncertain to decide.
        num_failing (`int`): Sets without the property.
        lower (`float`): Lower end of a 95 % interval of the share with the property; open sets count as without it.
        upper (`float`): Upper end; open sets count as with it.
    """

    num_holding: int
    num_open: int
    num_failing: int
    lower: float
    upper: float


@dataclass(frozen=True)
class SetSummary:
    """Summary of the measurements of one kind of sets; 95 % intervals over states.

    Args:
        num_sets (`int`): Number of sets.
        num_exact (`int`): Number of enumerated sets.
        mean_size (`float`): Positions in a set.
        total_variation (`Interval`): Mean error of a set.
        telescoped (`Interval`): Mean sum of the telescoped terms.
        bound (`Interval`): Mean sum of exact dependencies.
        head_bound (`Interval`, *optional*): Mean sum of dependencies that the head predicts.
        subadditive (`Verdicts`, *optional*): No telescoped term exceeds its dependencies; sets of three and more.
        bounded (`Verdicts`): The sum of exact dependencies is at least the error.
        bounded_by_head (`Verdicts`, *optional*): The sum of predicted ones is.
        tightness (`float`, *optional*): Median of bound / error over sets with an error above 0.001.
        order_effect (`Interval`, *optional*): Mean absolute change of the error with another order.
        order_distance (`Interval`, *optional*): Mean total variation between the joints of the two orders.
    """

    num_sets: int
    num_exact: int
    mean_size: float
    total_variation: Interval
    telescoped: Interval
    bound: Interval
    head_bound: Interval | None
    subadditive: Verdicts | None
    bounded: Verdicts
    bounded_by_head: Verdicts | None
    tightness: float | None
    order_effect: Interval | None
    order_distance: Interval | None


def summarise_sets(measurements: Sequence[SetMeasurement]) -> SetSummary:
    """Summarise measurements of sets from different prompts.

    Raises:
        ValueError: if there are none.
    """
    if not measurements:
        raise ValueError("`measurements` must hold at least one set, got none.")
    errors = [one.total_variation.value for one in measurements]
    head_sums = [sum(one.head_costs) for one in measurements if one.head_costs is not None]
    by_head = [one.bounded_by_head for one in measurements if one.bounded_by_head is not None]
    ratios = [one.tightness for one in measurements if one.tightness is not None]
    ordered = [(one.total_variation.value, other) for one in measurements for other in one.orders]
    larger = [one.subadditive for one in measurements if len(one.positions) > 2]
    return SetSummary(
        num_sets=len(measurements),
        num_exact=sum(one.is_exact for one in measurements),
        mean_size=float(np.mean([len(one.positions) for one in measurements])),
        total_variation=mean_interval(errors),
        telescoped=mean_interval([one.telescoped for one in measurements]),
        bound=mean_interval([sum(one.costs) for one in measurements]),
        head_bound=mean_interval(head_sums) if head_sums else None,
        subadditive=_counted(larger) if larger else None,
        bounded=_counted([one.bounded for one in measurements]),
        bounded_by_head=_counted(by_head) if by_head else None,
        tightness=float(np.median(ratios)) if ratios else None,
        order_effect=mean_interval([abs(other.total_variation.value - own) for own, other in ordered])
        if ordered
        else None,
        order_distance=mean_interval([other.distance.value for _, other in ordered]) if ordered else None,
    )


def _counted(verdicts: Sequence[str]) -> Verdicts:
    holding, still_open, failing = (list(verdicts).count(verdict) for verdict in ("holds", "open", "fails"))
    lower = share_interval(holding, len(verdicts)).lower
    return Verdicts(holding, still_open, failing, lower, share_interval(len(verdicts) - failing, len(verdicts)).upper)


def summaries_of(states: Sequence[VerifiedState]) -> dict[str, SetSummary]:
    """Return summaries of the selected sets, of those next to others of the same states, and by group.

    Args:
        states (`Sequence[VerifiedState]`):
            What [`verify`] returns.
    """
    compared = _compared(states)
    parts = {"selected": [state.selected for state in states]}
    if len(compared["selected"]) < len(states):
        parts |= {COMPARED: compared["selected"]}
    parts |= {name: sets for name, sets in compared.items() if name != "selected"}
    groups = list(dict.fromkeys(state.group for state in states))
    if len(groups) > 1:
        parts |= {f"selected, {group}": [one.selected for one in states if one.group == group] for group in groups}
    return {name: summarise_sets(measurements) for name, measurements in parts.items() if measurements}


def paired_errors(states: Sequence[VerifiedState]) -> dict[str, Interval]:
    """Return by how much the error of other sets exceeds that of the selected set of the same state.

    Args:
        states (`Sequence[VerifiedState]`):
            What [`verify`] returns; states without other sets do not count.

    Returns:
        `dict[str, Interval]`: the mean difference with a 95 % interval over states, for each kind of other sets.
    """
    compared = _compared(states)
    selected = [one.total_variation.value for one in compared.pop("selected")]
    return {
        name: mean_interval([one.total_variation.value - own for one, own in zip(sets, selected, strict=True)])
        for name, sets in compared.items()
        if sets
    }


def _compared(states: Sequence[VerifiedState]) -> dict[str, list[SetMeasurement]]:
    """Return the sets of the states in which the rule left a choice, by kind, each in the order of the states."""
    left = [(one.selected, one.most_confident, one.random) for one in states if one.most_confident and one.random]
    names = ("selected", "most confident", "random")
    return {name: [sets[place] for sets in left] for place, name in enumerate(names)}  # type: ignore[misc]


def summary_table(summaries: dict[str, SetSummary], paired: dict[str, Interval] | None = None) -> list[str]:
    """Return the lines of three tables of summaries: errors, bounds and properties, each with a row for each kind.

    Args:
        summaries (`dict[str, SetSummary]`):
            What [`summaries_of`] returns.
        paired (`dict[str, Interval]`, *optional*):
            What [`paired_errors`] returns, for a sentence.
    """
    rows = [{"sets": name, **vars(summary)} for name, summary in summaries.items()]
    lines = []
    for columns in (_ERROR_COLUMNS, _BOUND_COLUMNS, _PROPERTY_COLUMNS):
        lines += [*text_lines([_SETS, *columns], rows), ""]
    lines += [
        "Means with 95 % intervals over states; properties as numbers of sets: holds/open/fails, with a 95 %",
        "interval of the share. Sub-additivity concerns sets of three and more: for two, the bound is the",
        "error.",
    ]
    for name, difference in (paired or {}).items():
        lines.append(f"In the same states the error (TV) of {name} sets is larger by {_interval(difference)}.")
    selected = summaries.get("selected")
    if selected is not None and selected.order_distance is not None:
        lines += [
            f"In another order the error of a selected set changes by {_interval(selected.order_effect)};",
            f"the joints of the two orders differ by {_interval(selected.order_distance)} in total variation.",
        ]
    return lines


def _interval(interval: Interval | None) -> str | None:
    return None if interval is None else f"{interval.value:.3f} [{interval.lower:.3f}, {interval.upper:.3f}]"


def _verdicts(verdicts: Verdicts | None) -> str | None:
    if verdicts is None:
        return None
    counts = f"{verdicts.num_holding}/{verdicts.num_open}/{verdicts.num_failing}"
    return f"{counts} [{verdicts.lower:.0%}, {verdicts.upper:.0%}]"


_SETS = Column("sets", "sets", is_text=True)
_ERROR_COLUMNS = (
    Column("n", "num_sets"),
    Column("exact", "num_exact"),
    Column("size", "mean_size", ".1f"),
    Column("TV", lambda row: _interval(row["total_variation"])),
    Column("telescoped", lambda row: _interval(row["telescoped"])),
)
_BOUND_COLUMNS = (
    Column("sum D", lambda row: _interval(row["bound"])),
    Column("sum head", lambda row: _interval(row["head_bound"])),
    Column("sum D / TV", "tightness", ".2f"),
)
_PROPERTY_COLUMNS = (
    Column("sub-additive", lambda row: _verdicts(row["subadditive"])),
    Column("TV <= sum D", lambda row: _verdicts(row["bounded"])),
    Column("TV <= sum head", lambda row: _verdicts(row["bounded_by_head"])),
)
