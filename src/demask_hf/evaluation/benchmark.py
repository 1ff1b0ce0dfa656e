"""A comparison from grid to table: limits are chosen on validation prompts and reported on test prompts."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..files import write_json
from ..strategies import make_strategy, strategy_fields
from ..tables import Column, Row, markdown_lines, text_lines
from .comparison import Comparison, Outcome, choose, compare, mean_aup, pareto_front, sweeps
from .runs import Run
from .specs import Setting, fields_of_spec


_DIFFERENCE = "points against the same order, one at a time (95 % lower bound)"
#: Columns of tables for the rows of a report, see [`Report.rows`].
COLUMNS = (
    Column("setting", "label", is_text=True),
    Column("right", "accuracy", ".1%"),
    Column("sd over seeds", "accuracy_sd", ".2%"),
    Column("compared with", "reference", is_text=True),
    Column(
        _DIFFERENCE,
        lambda row: _reference(row) or f"{_points(row, 'mean')} ({_points(row, 'lower')})",
    ),
    Column("95 % upper bound", lambda row: _reference(row) or _points(row, "upper")),
    Column("weakest task (lower bound)", lambda row: _weakest(row), is_text=True),
    Column("p (Holm)", lambda row: _reference(row) or format(row["p_value"], ".2g")),
    Column("accuracy kept", lambda row: _reference(row) or ("yes" if row["is_matched"] else "not shown")),
    Column("forward passes", "mean_forward_passes", ".2f"),
    Column("row forwards", "mean_row_forwards", ".2f"),
    Column("probe passes", "mean_probe_passes", ".2f"),
    Column("over the whole length", "whole_length_forward_passes", ".2f"),
    Column(
        "fewer passes (95 %)",
        lambda row: _reference(row) or "{value:.2f}x ({lower:.2f} to {upper:.2f})".format(**row["speed_up"]),
    ),
    Column("tokens / pass", "tokens_per_forward", ".2f"),
    Column("AUP", "aup", ".0f"),
    Column("AFP", "average_finalization_parallelism", ".2f"),
    Column("left to right (tau-b)", "left_to_right", "+.2f"),
    Column("different right answers of a prompt", lambda row: _diverse(row, "{mean_distinct_valid:.2f}")),
    Column(
        "distance of its answers (by chance)", lambda row: _diverse(row, "{distance:.3f} ({expected_distance:.3f})")
    ),
    Column("tokens per second", "tokens_per_second", ".0f"),
)
_TEXT_TITLES = ("setting", "right", _DIFFERENCE, "forward passes", "fewer passes (95 %)", "accuracy kept")
_MARKDOWN_TITLES = (
    "setting",
    "right",
    _DIFFERENCE,
    "weakest task (lower bound)",
    "p (Holm)",
    "forward passes",
    "tokens / pass",
    "AFP",
    "fewer passes (95 %)",
    "AUP",
    "accuracy kept",
)
#: Columns of tables for summaries of outcomes, see [`Outcome.summary`]; a row also needs a "task".
SUMMARY_COLUMNS = (
    Column("task", "task", is_text=True),
    Column("right", "accuracy", ".2%"),
    Column("passes", "mean_forward_passes", ".2f"),
    Column("row forwards", "mean_row_forwards", ".2f"),
    Column("probe passes", "mean_probe_passes", ".2f"),
    Column("tokens/pass", "tokens_per_forward", ".2f"),
    Column("AFP", "average_finalization_parallelism", ".2f"),
    Column("s/prompt", "mean_seconds", ".4f"),
    Column("tokens/s", "tokens_per_second", ".0f"),
)

# Decodes the missing records of a setting.
Decode = Callable[[Run, Setting], None]


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a comparison.

    Args:
        chosen (`list[Comparison]`): The chosen setting of each row, on the test prompts.
        neighbours (`list[Comparison]`): Their neighbours in the grid.
        validation (`list[Outcome]`): Every setting on the validation prompts; empty if nothing was chosen.
        margin (`float`): Loss of accuracy that still counts as kept.
        whole_length (`dict[str, float]`): Forward passes per prompt without stopping at the end of sequence, by label.
        outcomes (`dict[tuple[str, str], Outcome]`): Everything that was decoded, by split and key of the setting.
    """

    chosen: list[Comparison]
    neighbours: list[Comparison]
    validation: list[Outcome]
    margin: float
    whole_length: dict[str, float]
    outcomes: dict[tuple[str, str], Outcome] = dataclasses.field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary for each comparison, chosen ones first, of JSON types."""
        scores = mean_aup(self.sweeps())
        rows = [
            {
                **row_of(comparison, self.margin, self.whole_length),
                "aup": scores.get(comparison.outcome.setting.row),
                "is_chosen": is_chosen,
                "is_on_front": False,
            }
            for is_chosen, comparisons in ((True, self.chosen), (False, self.neighbours))
            for comparison in comparisons
        ]
        for name in {row["row"] for row in rows}:
            own = [row for row in rows if row["row"] == name]
            for index in pareto_front([(row["mean_forward_passes"], row["accuracy"]) for row in own]):
                own[index]["is_on_front"] = True
        return rows

    def sweeps(self) -> dict[str, dict[str, list[list[float]]]]:
        """Return tokens per pass and percent right of each limit, by task and row, as d3LLM's leaderboard reads them.

        Limits are those of the validation prompts, where all of a row are decoded; without any, those of the test.
        """
        return sweeps(self.validation or [each.outcome for each in (*self.chosen, *self.neighbours)])

    def write(self, file: Path) -> None:
        """Write rows and validation results as JSON, with null for unknown numbers; completely or not at all."""
        validation = [{"label": outcome.setting.label, **outcome.summary()} for outcome in self.validation]
        write_json(file, _without_nan({"margin": self.margin, "rows": self.rows(), "validation": validation}))


def run_benchmark(
    grid: Sequence[Sequence[Setting]],
    validation: Run | None,
    test: Run,
    decode: Decode,
    margin: float = 0.005,
    has_whole_length: bool = False,
    has_neighbours: bool = True,
) -> Report:
    """Choose a limit for every row, decode it and its neighbours on the test prompts, and compare.

    Each setting is compared with one token per forward pass with the same order of positions and the same draws.

    Args:
        grid (`Sequence[Sequence[Setting]]`):
            The settings of each row, neighbours side by side.
        validation ([`Run`], *optional*):
            Prompts for choosing; without them every setting is reported.
        test ([`Run`]):
            Prompts for reporting.
        decode (`Callable[[Run, Setting], None]`):
            Decodes missing records, such as [`Run.decode`] with a model.
        margin (`float`, *optional*, defaults to 0.005):
            Allowed loss of mean accuracy of the chosen limit against its reference on the validation prompts.
        has_whole_length (`bool`, *optional*, defaults to `False`):
            Decode the chosen settings again without stopping at the end of sequence, only to count passes.
        has_neighbours (`bool`, *optional*, defaults to `True`):
            Report the neighbours of each chosen setting in the grid, too.
    """
    runs = {"validation": validation, "test": test}
    found: dict[tuple[str, str], Outcome] = {}

    def outcome_of(split: str, setting: Setting) -> Outcome:
        run = runs[split]
        if run is not None and (split, setting.key) not in found:
            decode(run, setting)
            found[split, setting.key] = Outcome.of(setting, run.records(setting))
        return found[split, setting.key]

    report = report_of(grid, outcome_of, validation is not None, margin, has_whole_length, has_neighbours)
    return dataclasses.replace(report, outcomes=found)


def report_of(
    grid: Sequence[Sequence[Setting]],
    outcome_of: Callable[[str, Setting], Outcome],
    has_validation: bool = True,
    margin: float = 0.005,
    has_whole_length: bool = False,
    has_neighbours: bool = True,
) -> Report:
    """Return the report of [`run_benchmark`] from outcomes, wherever they come from.

    Args:
        grid (`Sequence[Sequence[Setting]]`):
            The settings of each row, neighbours side by side.
        outcome_of (`Callable[[str, Setting], Outcome]`):
            Returns the outcome of a setting on a split, "validation" or "test".
        has_validation (`bool`, *optional*, defaults to `True`):
            Whether limits are chosen; otherwise every setting is reported.
        margin (`float`, *optional*, defaults to 0.005):
            As of [`run_benchmark`], like the next two.
        has_whole_length (`bool`, *optional*, defaults to `False`):
            Report passes without stopping, too.
        has_neighbours (`bool`, *optional*, defaults to `True`):
            Report neighbours.
    """

    def compared(settings: Sequence[Setting]) -> list[Comparison]:
        outcomes = [outcome_of("test", setting) for setting in settings]
        return compare(outcomes, [outcome_of("test", setting.reference()) for setting in settings])

    seen: list[Outcome] = []
    chosen: list[Setting] = []
    neighbours: list[Setting] = []
    for settings in grid:
        if not has_validation:
            chosen += settings
            continue
        tried = [outcome_of("validation", setting) for setting in settings]
        seen += tried
        best = choose(tried, [outcome_of("validation", setting.reference()) for setting in settings], margin)
        chosen.append(settings[best])
        if has_neighbours:
            neighbours += [settings[index] for index in (best - 1, best + 1) if 0 <= index < len(settings)]
    comparisons = compared([*chosen, *neighbours])
    whole = {}
    for setting in chosen if has_whole_length else ():
        longer = dataclasses.replace(setting, options={**setting.options, "stop_at_eos": False})
        whole[setting.label] = outcome_of("test", longer).mean_forward_passes
    return Report(comparisons[: len(chosen)], comparisons[len(chosen) :], seen, margin, whole)


def row_of(comparison: Comparison, margin: float, whole_length: dict[str, float]) -> dict[str, Any]:
    """Return the reported values of a comparison, of JSON types."""
    outcome = comparison.outcome
    families = sorted(set(outcome.family.tolist()))
    return {
        "row": outcome.setting.row,
        "label": outcome.setting.label,
        "is_default": is_default(outcome.setting),
        "reference": comparison.reference.setting.label,
        "is_reference": comparison.is_reference,
        **outcome.summary(),
        "difference": dataclasses.asdict(comparison.difference),
        "p_value": comparison.p_value,
        "speed_up": dataclasses.asdict(comparison.speed_up),
        "is_matched": comparison.is_matched(margin),
        "whole_length_forward_passes": whole_length.get(outcome.setting.label),
        "order": outcome.order_by_verdict(),
        "diversity": outcome.diversity(comparison.reference) if outcome.is_correct.shape[1] > 1 else None,
        "families": {
            family: outcome.only([family]).summary()
            | {"difference": dataclasses.asdict(own) if (own := comparison.families.get(family)) else None}
            for family in families
        },
    }


def is_default(setting: Setting) -> bool:
    """Return whether a setting is its strategy with default fields and no further option."""
    name, fields = setting.strategy["name"], strategy_fields(setting.strategy["name"])
    named = [pair.partition("=")[0] for pair in fields_of_spec(setting.label.partition(":")[2])]
    given, default = setting.build(), make_strategy(name)
    # For a default of None, the value in use counts.
    own, usual = ({**rule.to_dict(), "dependency_bound": getattr(rule, "limit", None)} for rule in (given, default))
    return own == usual and all(field in fields for field in named)


def _points(row: Row, end: str) -> str:
    return f"{100 * row['difference'][end]:+.2f}"


def _reference(row: Row) -> str | None:
    """Return a word for the cells of a setting that is its own reference."""
    return "reference" if row["is_reference"] else None


def _weakest(row: Row) -> str | None:
    """Return the task whose difference has the lowest bound."""
    if row["is_reference"]:
        return "reference"
    known = {name: task["difference"] for name, task in row["families"].items() if task["difference"]}
    if not known:
        return None
    name = min(known, key=lambda name: (known[name]["lower"], known[name]["mean"]))
    return f"{name} {100 * known[name]['mean']:+.2f} ({100 * known[name]['lower']:+.2f})"


def _diverse(row: Row, text: str) -> str | None:
    return None if row["diversity"] is None else text.format(**row["diversity"])


def _columns(*titles: str) -> list[Column]:
    by_title = {column.title: column for column in COLUMNS}
    return [by_title[title] for title in titles]


def _without_nan(value: Any) -> Any:
    """Return a structure with `None` instead of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and value != value else value


def with_costs(titles: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return titles of columns with those of row forwards and probes behind the passes, if they say something."""
    has_drafts = any(row["mean_row_forwards"] != row["mean_forward_passes"] for row in rows)
    costs = ["row forwards"] * has_drafts + ["probe passes"] * any(row["mean_probe_passes"] for row in rows)
    place = titles.index("forward passes") + 1
    return [*titles[:place], *costs, *titles[place:]]


def markdown_table(rows: Sequence[Row]) -> str:
    """Return rows of a report as a Markdown table."""
    return "\n".join(markdown_lines(_columns(*with_costs(_MARKDOWN_TITLES, rows)), rows)) + "\n"


def text_table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table of rows of a report that fits a terminal."""
    return text_lines(_columns(*with_costs(_TEXT_TITLES, rows)), rows)
