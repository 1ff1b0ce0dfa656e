"""Write the tables and figures of the documentation from the records and results under docs/results.

    python benchmarks/write_results.py
    python benchmarks/write_results.py --check

A table stands between a comment that names it and the comment `<!-- end -->`. Nothing is decoded: intervals and
verdicts are computed again from the records of each prompt. With --check nothing is written, and the exit code is 1 if
a table differs from its records.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import infill_tables
import seeds_tables

from demask_hf.bound.summary import COMPARED
from demask_hf.evaluation.archive import Archive
from demask_hf.evaluation.benchmark import COLUMNS, Report, with_costs
from demask_hf.evaluation.comparison import mean_aup
from demask_hf.files import write_text
from demask_hf.tables import Column, Row, markdown_lines


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/strategies.md",
    "docs/verification.md",
    "docs/antibodies.md",
    "docs/code_model.md",
)
_TABLE = re.compile(r"<!-- table ([^>]+) -->\n.*?<!-- end -->", re.DOTALL)
_SETTING = Column("setting", lambda row: f"`{row['label']}`", is_text=True)


@cache
def report_of(name: str) -> Report:
    """Return the report of an archive."""
    return Archive.read(RESULTS / "records" / f"{name}.json.xz").report()


@cache
def facts_of(name: str) -> dict[str, Any]:
    """Return the content of a file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def settings_table(name: str) -> list[str]:
    """Return a comparison: one row for each setting."""
    rows = report_of(name).rows()
    titles = ["right", "points against the same order, one at a time (95 % lower bound)", "weakest task (lower bound)"]
    titles += ["p (Holm)", "forward passes", "tokens / pass", "fewer passes (95 %)", "accuracy kept"]
    if rows[0]["num_seeds"] > 1:
        titles.insert(1, "sd over seeds")
    by_title = {column.title: column for column in COLUMNS}
    return markdown_lines([_SETTING, *map(by_title.__getitem__, with_costs(titles, rows))], rows)


def families_table(name: str) -> list[str]:
    """Return right answers and passes by task."""
    rows = report_of(name).rows()

    def column(family: str) -> Column:
        def cell(row: Row) -> str:
            own = row["families"][family]
            return f"{own['accuracy']:.1%}, {own['mean_forward_passes']:.1f}"

        return Column(family, cell)

    return markdown_lines([_SETTING, *map(column, rows[0]["families"])], rows)


def order_table(name: str) -> list[str]:
    """Return how fast and in which order right and wrong answers were written."""

    def column(title: str, kind: str, value: str, form: str) -> Column:
        return Column(title, lambda row: row["order"][kind][value], form)

    parallelism, correlation = "average_finalization_parallelism", "left_to_right"
    columns = [
        _SETTING,
        *(column(f"AFP, {kind}", kind, parallelism, ".2f") for kind in ("right", "wrong")),
        *(column(f"tau-b, {kind}", kind, correlation, "+.2f") for kind in ("right", "wrong")),
        column("wrong answers", "wrong", "num_answers", ""),
    ]
    return markdown_lines(columns, report_of(name).rows())


def diversity_table(name: str) -> list[str]:
    """Return how different the answers of a prompt are."""
    columns = [
        Column("different right answers of a prompt", lambda row: row["diversity"]["mean_distinct_valid"], ".2f"),
        Column("distance to the reference's answers", lambda row: row["diversity"]["distance"], ".3f"),
        Column("distance of two samples of the reference", lambda row: row["diversity"]["expected_distance"], ".3f"),
    ]
    return markdown_lines([_SETTING, *columns], report_of(name).rows())


def summary_table(name: str) -> list[str]:
    """Return the short form of a comparison, for the first page."""
    columns = [
        Column("strategy", lambda row: f"`{row['label']}`", is_text=True),
        Column("right", "accuracy", ".1%"),
        Column("points lost (at most, 95 %)", lambda row: _lost(row)),
        Column("forward passes", "mean_forward_passes", ".2f"),
        Column(
            "times fewer than one at a time",
            lambda row: "{value:.1f} ({lower:.1f} to {upper:.1f})".format(**row["speed_up"]),
        ),
        Column("tokens per pass", "tokens_per_forward", ".1f"),
    ]
    return markdown_lines(columns, report_of(name).rows())


def costs_table(name: str) -> list[str]:
    """Return what each setting reaches and costs, by ascending number of passes."""
    columns = [
        _SETTING,
        Column("right", "accuracy", ".1%"),
        Column("forward passes", "mean_forward_passes", ".2f"),
        Column("row forwards", "mean_row_forwards", ".1f"),
        Column("probe passes", "mean_probe_passes", ".1f"),
    ]
    rows = sorted(report_of(name).rows(), key=lambda row: (row["mean_forward_passes"], row["label"]))
    return markdown_lines(columns, rows)


def aup_table(name: str) -> list[str]:
    """Return the accuracy under parallelism of each row, the mean over tasks, highest first."""
    tasks = report_of(name).sweeps()
    rows = [
        {"row": row, "aup": score, "limits": len(next(iter(tasks.values()))[row])}
        for row, score in sorted(mean_aup(tasks).items(), key=lambda pair: -pair[1])
    ]
    columns = [
        Column("row", lambda row: f"`{row['row']}`", is_text=True),
        Column("limits", "limits"),
        Column("AUP", "aup", ".0f"),
    ]
    return markdown_lines(columns, rows)


def _lost(row: Row) -> str | None:
    if row["is_reference"]:
        return None
    return f"{-100 * row['difference']['mean']:.2f} ({-100 * row['difference']['lower']:.2f})"


def sets_table(name: str) -> list[str]:
    """Return the errors and bounds of measured sets, by kind."""

    def interval(field: str) -> Callable[[Row], str | None]:
        def cell(row: Row) -> str | None:
            found = row[field]
            return None if found is None else "{value:.3f} [{lower:.3f}, {upper:.3f}]".format(**found)

        return cell

    columns = [
        Column("sets", "sets", is_text=True),
        Column("n", "num_sets"),
        Column("enumerated", "num_exact"),
        Column("size", "mean_size", ".1f"),
        Column("error (TV)", interval("total_variation")),
        Column("telescoped", interval("telescoped")),
        Column("sum of D", interval("bound")),
        Column("sum of the head's D", interval("head_bound")),
        Column("median sum of D / error", "tightness", ".1f"),
    ]
    return markdown_lines(columns, _sets(name))


def properties_table(name: str) -> list[str]:
    """Return how many measured sets have the properties that the bound needs."""

    def verdicts(field: str) -> Callable[[Row], str | None]:
        def cell(row: Row) -> str | None:
            found = row[field]
            if found is None:
                return None
            counts = f"{found['num_holding']} hold, {found['num_open']} open, {found['num_failing']} fail"
            return f"{counts} [{found['lower']:.0%}, {found['upper']:.0%}]"

        return cell

    columns = [
        Column("sets", "sets", is_text=True),
        Column("sub-additive (3 positions and more)", verdicts("subadditive")),
        Column("error <= sum of D", verdicts("bounded")),
        Column("error <= sum of the head's D", verdicts("bounded_by_head")),
    ]
    return markdown_lines(columns, _sets(name))


def paired_table(name: str) -> list[str]:
    """Return by how much the errors of other sets of the same states are larger."""
    rows = [{"sets": kind, **found} for kind, found in facts_of(name)["paired"].items()]
    difference = Column(
        "error minus that of the selected set",
        lambda row: f"{row['value']:.3f} [{row['lower']:.3f}, {row['upper']:.3f}]",
    )
    return markdown_lines([Column("sets of the same states", "sets", is_text=True), difference], rows)


def _sets(name: str) -> list[dict[str, Any]]:
    summaries = facts_of(name)["summaries"]
    return [
        {"sets": kind, **found}
        for kind, found in summaries.items()
        if not kind.startswith("selected, ") or kind == COMPARED
    ]


def fit_table(name: str) -> list[str]:
    """Return the fit of the head by family, next to predictors that read no state."""

    def column(title: str, predictor: str, value: str, form: str) -> Column:
        return Column(title, lambda row: row[predictor][value], form)

    columns = [
        Column("family", "family", is_text=True),
        Column("pairs", "num_pairs", ","),
        column("head: R^2", "head", "r2", ".3f"),
        column("table: R^2", "table", "r2", ".3f"),
        column("distance: R^2", "distance", "r2", ".3f"),
        column("head: mean absolute error", "head", "mae", ".4f"),
        column("head: AUC of D > 0.1", "head", "auc", ".4f"),
    ]
    return markdown_lines(columns, [{"family": family, **own} for family, own in facts_of(name)["families"].items()])


def walks_table(name: str) -> list[str]:
    """Return passes from small states and the sums that orders count."""
    columns = [
        Column("family", "family", is_text=True),
        *(
            Column(f"passes: {order}", order, ".2f")
            for order in ("confidence", "influence", "degree", "best by search")
        ),
        *(
            Column(f"sum: {order}", lambda row, order=order: row["sums"][order], ".2f")
            for order in ("confidence", "influence", "influence reversed")
        ),
    ]
    rows = [
        {"family": family, "sums": own["sums"], **own["passes"]} for family, own in facts_of(name)["families"].items()
    ]
    return markdown_lines(columns, rows)


def baselines_table(name: str) -> list[str]:
    """Return right answers and passes of the walk with the head, with a table, and with distances, by family."""
    rows: dict[str, dict[str, Any]] = {}
    for one in facts_of(name)["rows"]:
        family = one["family"] + (", temperature 1" if one["temperature"] else "")
        rows.setdefault(family, {})[one["walk"]] = f"{one['accuracy']:.0%}, {one['forward_passes']:.1f}"
    walks = list(dict.fromkeys(one["walk"] for one in facts_of(name)["rows"]))
    columns = [Column("family", "family", is_text=True), *(Column(walk, walk) for walk in walks)]
    return markdown_lines(columns, [{"family": family, **cells} for family, cells in rows.items()])


TABLES: dict[str, Callable[[str], list[str]]] = {
    "settings": settings_table,
    "families": families_table,
    "order": order_table,
    "diversity": diversity_table,
    "summary": summary_table,
    "costs": costs_table,
    "aup": aup_table,
    "sets": sets_table,
    "properties": properties_table,
    "paired": paired_table,
    "fit": fit_table,
    "walks": walks_table,
    "baselines": baselines_table,
    **infill_tables.TABLES,
    **seeds_tables.TABLES,
}


def written(page: str) -> str:
    """Return the text of a page with its tables computed again.

    Raises:
        ValueError: if a page names a table that does not exist.
    """

    def replaced(match: re.Match[str]) -> str:
        kind, _, name = match[1].partition(" of ")
        if kind not in TABLES:
            raise ValueError(f"a table must be one of {', '.join(TABLES)}, got {kind!r}.")
        table = "\n".join(TABLES[kind](name))
        return f"<!-- table {match[1]} -->\n\n{table}\n\n<!-- end -->"

    return _TABLE.sub(replaced, page)


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check all pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and compare")
    arguments = parser.parse_args(argv)
    different = []
    for name in PAGES:
        file = ROOT / name
        page = file.read_text(encoding="utf-8")
        new = written(page)
        if new != page:
            different.append(name)
            if not arguments.check:
                write_text(file, new)
    for name in different:
        print(f"{name}: {'differs from its records' if arguments.check else 'written'}")
    return int(arguments.check and bool(different))


if __name__ == "__main__":
    sys.exit(main())
