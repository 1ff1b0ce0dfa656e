"""The tables and figures of docs/antibodies.md and docs/code_model.md, from records and results of the two studies.

python benchmarks/infill_tables.py docs/images
"""

import json
import lzma
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from infill_fronts import LEARNED, front_rows, rule_of, size_of

from demask_hf.evaluation.figures import color_of
from demask_hf.tables import Column, markdown_lines


RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
UNITS = {"antibodies": "residue", "code_model": "token"}
FIGURES = {"antibodies": "loop", "code_model": "statement"}
REFERENCE = "sequential"
# Rules that look at the drawn token have one of their kind to be compared with.
DRAWN_REFERENCE = "sequential, drawn token"
DRAWN = (DRAWN_REFERENCE, "threshold 0.5")
_LOSSES = (0.05, 0.1, 0.15)
# Where most is visible, hardly anything is lost.
_SMALL_LOSSES = (0.01, 0.02, 0.05)
_STYLES = {"influence": "s--", "degree": "D-.", "total": "^:", "norm": "x-", "max": "v:", "partition": "*-"}
# Nobody would lose more.
_HIGHEST = 0.4


@cache
def outcomes_of(name: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the records of a study: what each setting wrote in each chain, by part of the study."""
    with lzma.open(RESULTS / "records" / f"{name}.json.xz", "rt", encoding="utf-8") as stream:
        return json.load(stream)["outcomes"]


def facts_of(name: str) -> dict[str, Any]:
    """Return the facts of a study."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows_of(found: dict[str, list[dict[str, Any]]], reference: str | None = REFERENCE) -> list[dict[str, Any]]:
    """Return one row for each setting; means over what was written, and their standard errors.

    Args:
        found (`dict`): What each setting wrote.
        reference (`str`, *optional*): The setting that the others are compared with on the same rows.
    """
    rows = []
    for name, records in found.items():
        letters = Counter("".join(record["written"] for record in records))
        shares = np.array(list(letters.values())) / sum(letters.values())
        row = {
            "setting": name,
            "num_rows": len(records),
            "passes": float(np.mean([record["num_forward_passes"] for record in records])),
            "probes": float(np.mean([record["num_probe_passes"] for record in records])),
            "excess": _mean([_per_token(record, ("divergence",)) for record in records]),
            "log_q": _mean([_log_q(record) for record in records]),
            "entropy": float(-(shares * np.log(shares)).sum()),
            "recovered": sum(record["num_right"] for record in records) / sum(map(size_of, records)),
        }
        if "parses" in records[0]:
            row["parses"] = _mean([float(record["parses"]) for record in records])
        if reference is not None and name != reference:
            own = list(zip(records, found[reference], strict=True))
            row["difference"] = _mean([_log_q(record) - _log_q(other) for record, other in own])
            if "parses" in row:
                row["parses_difference"] = _mean([float(record["parses"]) - other["parses"] for record, other in own])
        rows.append(row)
    return rows


def strategies_table(part: str) -> list[str]:
    """Return all settings of a part of a study, such as "antibodies.loop"."""
    name, _, part = part.partition(".")
    found = outcomes_of(name)[part]
    rows = rows_of(
        {key: own for key, own in found.items() if key not in DRAWN}, REFERENCE if REFERENCE in found else None
    )
    unit = UNITS[name]
    columns = [
        Column("setting", "setting", is_text=True),
        Column("passes", "passes", ".2f"),
        Column(f"nats a {unit} lost by writing together (SE)", lambda row: _with_error(row["excess"], ".3f")),
        *_likelihood_columns(unit),
        *_content_columns(rows, unit),
    ]
    if any(row["probes"] for row in rows):
        columns.insert(2, Column("probes", "probes", ".0f"))
    return markdown_lines(columns, rows)


def _likelihood_columns(unit: str) -> list[Column]:
    return [
        Column(f"log q a {unit} (SE)", lambda row: _with_error(row["log_q"], ".2f")),
        Column("difference to `sequential` (SE)", lambda row: _with_error(row.get("difference"), "+.2f")),
    ]


def _content_columns(rows: list[dict[str, Any]], unit: str) -> list[Column]:
    """Return what can be told of the written text itself."""
    if "parses" not in rows[0]:
        return [Column(f"entropy of {unit}s", "entropy", ".2f"), Column("recovered", "recovered", ".1%")]
    return [
        Column("parses (SE)", lambda row: _with_error(row["parses"], ".1%")),
        Column("difference of these (SE)", lambda row: _with_error(row.get("parses_difference"), "+.1%")),
    ]


def drawn_table(part: str) -> list[str]:
    """Return the rules that look at the drawn token, beside a reference of their own kind and beside `sequential`."""
    name, _, part = part.partition(".")
    found, unit = outcomes_of(name)[part], UNITS[name]
    rows = rows_of({key: found[key] for key in (REFERENCE, *DRAWN)})
    own = {row["setting"]: row for row in rows_of({key: found[key] for key in DRAWN}, DRAWN_REFERENCE)}
    columns = [
        Column("setting", "setting", is_text=True),
        Column("passes", "passes", ".2f"),
        *_likelihood_columns(unit),
        Column(
            "to its own reference (SE)", lambda row: _with_error(own.get(row["setting"], {}).get("difference"), "+.2f")
        ),
        *_content_columns(rows, unit),
    ]
    return markdown_lines(columns, rows)


def front_table(part: str) -> list[str]:
    """Return the passes of each rule at equal loss; of a part such as "loop:100" in the first 100 rows."""
    name, _, part = part.partition(".")
    part, _, count = part.partition(":")

    def passes(loss: float) -> Column:
        return Column(f"passes at {loss:g} nats lost (SE)", lambda row: _with_error(row["passes"].get(loss), ".2f"))

    def ratio(loss: float) -> Column:
        def cell(row: Any) -> str | None:
            return "{:.2f} ({:.2f} to {:.2f})".format(*row["ratio"][loss]) if loss in row["ratio"] else None

        return Column(f"times those of `{LEARNED}` (95 %)", cell)

    wanted = _SMALL_LOSSES if part == "span" else _LOSSES
    found = outcomes_of(name)[part]
    rows = front_rows(
        {key: own[: int(count) if count else None] for key, own in found.items() if key not in (REFERENCE, *DRAWN)},
        wanted,
    )
    columns = [Column("rule", "rule", is_text=True)]
    columns += [column(loss) for loss in wanted for column in (passes, ratio)]
    return markdown_lines(columns, rows)


def states_table(name: str) -> list[str]:
    """Return the fit of heads by number of states, next to the mean by distance."""
    titles = {"r2": "R^2", "auc": "AUC of D > 0.1", "mae": "mean absolute error"}

    def column(kind: str, key: str, title: str) -> Column:
        return Column(title, lambda row: row[kind][key], ".3f")

    columns = [Column("head", _head_label, is_text=True)]
    columns += [column(kind, key, f"{kind}: {titles[key]}") for kind in ("whole", "visited") for key in titles]
    columns += [column(kind, "r2_distance", f"{kind}, by distance: {titles['r2']}") for kind in ("whole", "visited")]
    return markdown_lines(columns, facts_of(name)["fits"])


def designs_table(name: str) -> list[str]:
    """Return the fit of designs of the head: means over seeds, and their range."""
    found: dict[str, list[dict[str, Any]]] = {}
    for fit in facts_of(name)["designs"]:
        found.setdefault(fit["design"], []).append(fit)

    def column(kind: str, key: str, title: str, form: str) -> Column:
        def cell(row: Any) -> str:
            values = [fit[kind][key] for fit in found[row["design"]]]
            spread = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
            return f"{np.mean(values):{form}}{spread}"

        return Column(f"{kind}: {title}", cell)

    columns = [Column("design", "design", is_text=True), Column("parameters", "parameters", ",")]
    columns += [column(kind, "r2", "R^2", ".3f") for kind in ("whole", "visited")]
    columns += [column(kind, "mae", "mean absolute error", ".4f") for kind in ("whole", "visited")]
    return markdown_lines(columns, [fits[0] for fits in found.values()])


def _head_label(row: dict[str, Any]) -> str:
    """Return how many states a head was trained on."""
    return f"{row['num_states']:,} states{', with visited ones' * (row['head'] == 'visited')}"


def distances_table(name: str) -> list[str]:
    """Return the dependencies at each distance."""
    rows = facts_of(name)["distances"]
    last = rows[-1]["distance"]
    columns = [
        Column("distance", lambda row: f"{row['distance']}{' and more' * (row['distance'] == last)}"),
        Column("mean", "mean", ".3f"),
        Column("standard deviation", "sd", ".3f"),
        Column("a tenth is above", "upper_tenth", ".3f"),
        Column("pairs", "num_pairs", ","),
    ]
    return markdown_lines(columns, rows)


def first_table(name: str) -> list[str]:
    """Return the exact dependencies within first sets of equal size."""
    rows = facts_of(name)["first_sets"]
    sizes = sorted({size for row in rows for size in row["cost"]}, key=int)

    def column(size: str) -> Column:
        return Column(f"{size} {UNITS[name]}s", lambda row: row["cost"].get(size), ".3f")

    columns = [Column("dependencies", "dependencies", is_text=True), Column("order", "order", is_text=True)]
    return markdown_lines([*columns, *map(column, sizes)], rows)


TABLES = {
    "strategies": strategies_table,
    "drawn": drawn_table,
    "front": front_table,
    "states": states_table,
    "designs": designs_table,
    "distances": distances_table,
    "first": first_table,
}


def draw(file: Path, part: str) -> None:
    """Draw what each rule loses against its passes, in a part of a study, such as "antibodies.loop"."""
    from matplotlib.figure import Figure

    name, _, task = part.partition(".")
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of(outcomes_of(name)[task]):
        if row["setting"] not in (REFERENCE, *DRAWN):
            lines.setdefault(rule_of(row["setting"]), []).append(row)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for rule, rows in lines.items():
        rows = sorted(rows, key=lambda row: row["passes"])
        color = color_of(rule.split(",")[0].replace(" ", "_"))
        means, errors = zip(*(row["excess"] for row in rows), strict=True)
        style = _STYLES.get(rule.partition(", ")[2], "o-")
        axes.errorbar([row["passes"] for row in rows], means, errors, fmt=style, color=color, label=rule, capsize=2)
    axes.set(xlabel=f"forward passes for a {task}", ylabel=f"nats a {UNITS[name]} lost by writing together")
    axes.set_ylim(0, min(axes.get_ylim()[1], _HIGHEST))
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


def _per_token(record: dict[str, Any], names: tuple[str, ...]) -> float:
    return float(np.mean([record[name] for name in names]) / size_of(record))


def _log_q(record: dict[str, Any]) -> float:
    """Return the log-probability of a token under the model's own chain, the mean of the orders that are known."""
    return _per_token(record, tuple(name for name in ("steps_log_q", "left_log_q") if name in record))


def _mean(values: list[float]) -> tuple[float, float]:
    """Return the mean with its standard error."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return float(np.mean(values)), spread / len(values) ** 0.5


def _with_error(found: tuple[float, float] | None, form: str) -> str | None:
    return None if found is None else f"{found[0]:{form}} ({found[1]:{form.strip('+')}})"


if __name__ == "__main__":
    for study, first in FIGURES.items():
        if (RESULTS / "records" / f"{study}.json.xz").exists():
            draw(Path(sys.argv[1]) / f"{study}.png", f"{study}.{first}")
