"""The report of a comparison: one HTML file with tables, figures and example answers, without external parts."""

import base64
import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..files import code_version, write_text
from ..tables import Column, Row, html_lines
from ..watching.page import frame_of, page_style
from .benchmark import COLUMNS, Report, row_of
from .comparison import Outcome, compare


_STYLE = """
:root { --worse: #b3261e; --row: #f1f4f9; }
@media (prefers-color-scheme: dark) { :root { --worse: #ff8a80; --row: #23262c; } }
h2 { margin-top: 1.8rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0.1rem 1rem; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.6rem 0; font-size: 0.85rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.5rem; text-align: right; vertical-align: top; }
th { vertical-align: bottom; font-weight: 600; max-width: 9rem; }
th:first-child, td:first-child { min-width: 11rem; text-align: left; overflow-wrap: anywhere; }
td:first-child { font-family: ui-monospace, monospace; }
tr.reference { background: var(--row); }
tr.unsure td:last-child { font-style: italic; }
tr.worse td { color: var(--worse); }
tr.worse td:last-child { font-weight: bold; }
summary { cursor: pointer; margin-top: 0.6rem; }
figure { margin: 1.5rem 0; }
figcaption { color: var(--soft); }
img { display: block; max-width: 100%; border-radius: 0.5rem; background: white; }
"""
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
"""
#: Classes of rows by their verdict, see [`verdict_of`].
_CLASSES = {"reference": "reference", "yes": "kept", "not shown": "unsure", "worse": "worse"}
_MAIN_TITLES = ("setting", "right", "weakest task (lower bound)", "forward passes", "fewer passes (95 %)")
_DIFFERENCE = Column(
    "points against the same order, one at a time (95 % bounds)",
    lambda row: (
        "reference"
        if row["is_reference"]
        else "{0[mean]:+.2f} ({0[lower]:+.2f} to {0[upper]:+.2f})".format(
            {end: 100 * value for end, value in row["difference"].items()}
        )
    ),
)
_VERDICT = Column("accuracy kept", lambda row: verdict_of(row))


def write_report(
    file: Path,
    title: str,
    rows: Sequence[Row],
    facts: Mapping[str, Any],
    figures: Mapping[str, Path],
    examples: Sequence[dict[str, Any]] = (),
) -> None:
    """Write the report of a comparison, completely or not at all.

    Args:
        file (`Path`):
            File to write.
        title (`str`):
            Its heading.
        rows (`Sequence[dict]`):
            What [`~benchmark.Report.rows`] returns.
        facts (`Mapping`):
            Facts about the measurement, shown as a list.
        figures (`Mapping[str, Path]`):
            PNG files by their captions; they are embedded in the report.
        examples (`Sequence[dict]`, *optional*):
            Traces of answers to one prompt, as [`Trace.to_dict`] returns them, shown side by side.
    """
    chosen, others = ([row for row in rows if row["is_chosen"] is kind] for kind in (True, False))
    families = sorted({family for row in rows for family in row["families"]})
    by_title = {column.title: column for column in COLUMNS}
    first, right, *rest = (by_title[name] for name in _MAIN_TITLES)
    main = [first, right, _DIFFERENCE, *rest, _VERDICT]
    others_too = ["<h2>Their neighbours in the grid</h2>", *_table("Neighbours", main, others)] if others else []
    parts = [
        f"{_HEAD}<title>{escape(title)}</title>\n<style>{page_style()}{_STYLE}</style>\n</head>\n<body>",
        f"<h1>{escape(title)}</h1>",
        "<dl>",
        *(f"<dt>{escape(str(name))}</dt><dd>{escape(shown(value))}</dd>" for name, value in facts.items()),
        "</dl><h2>Settings</h2>",
        "<p>Each setting is compared with one token per forward pass with the same order of positions and the same "
        "draws, on the same prompts; rows with a background are such references. The accuracy is kept (yes) if the "
        "lower bound of the difference shows it, worse if the upper bound lies below 0, and else not shown.</p>",
        *_table("Settings", main, chosen),
        "<details><summary>All columns</summary>",
        *_table("All columns", COLUMNS, [*chosen, *others]),
        "</details>",
        *others_too,
        *(_figure(caption, path) for caption, path in figures.items()),
        *(["<h2>Example answers, pass by pass</h2>", frame_of(examples)] if examples else []),
        "<h2>By task: right answers, forward passes</h2>",
        *_table("By task", [COLUMNS[0], *map(_family_column, families)], chosen),
        "<h2>Order of right and wrong answers: AFP, tau-b</h2>",
        *_table("Order", [COLUMNS[0], *map(_order_column, ("right", "wrong"))], chosen),
        "</body>\n</html>",
    ]
    # A prompt or an answer may hold half a surrogate pair, which no file can.
    write_text(file, "\n".join(parts).encode("utf-8", errors="replace").decode() + "\n")


def reference_rows(report: Report) -> list[Row]:
    """Return rows for what the chosen settings are compared with, as far as it is none of the settings itself.

    Args:
        report ([`~benchmark.Report`]):
            The comparison.
    """
    known = [each.outcome.setting for each in (*report.chosen, *report.neighbours)]
    missing: list[Outcome] = []
    for each in report.chosen:
        if not any(setting.decodes_like(each.reference.setting) for setting in known):
            known.append(each.reference.setting)
            missing.append(each.reference)
    return [
        {**row_of(each, report.margin, {}), "is_chosen": True, "is_on_front": False, "aup": None}
        for each in (compare(missing, missing) if missing else ())
    ]


def verdict_of(row: Row) -> str:
    """Return whether a row of a report keeps the accuracy: "reference", "yes", "worse", or "not shown"."""
    if row["is_reference"]:
        return "reference"
    if row["is_matched"]:
        return "yes"
    return "worse" if row["difference"]["upper"] < 0 else "not shown"


def shown(value: Any) -> str:
    """Return a fact in words.

    Example:

    ```python
    >>> print(shown({"validation": 60, "test": 300}), shown(True), shown(None), shown(["a", 0.5]), sep="; ")
    validation 60, test 300; yes; none; a, 0.5

    ```
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(part)}" for name, part in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value != value:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def environment() -> dict[str, str]:
    """Return a description of hardware and versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    own = f"demask-hf {code_version()}"
    return {"hardware": device, "versions": f"{own}, Python {platform.python_version()}, {versions}"}


def _table(name: str, columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Return a table that scrolls by itself where it is wider than the screen, also with keys."""
    lines = html_lines(columns, rows, lambda row: _CLASSES[verdict_of(row)])
    return [f'<div class="wide" role="region" aria-label="{name}" tabindex="0">', *lines, "</div>"]


def _order_column(verdict: str) -> Column:
    def cell(row: Row) -> str | None:
        found = row["order"][verdict]
        parallelism, order = (found[name] for name in ("average_finalization_parallelism", "left_to_right"))
        if parallelism is None or parallelism != parallelism:
            return None
        # With one step there is no order.
        return f"{parallelism:.2f}, " + ("-" if order is None or order != order else f"{order:+.2f}")

    return Column(verdict, cell)


def _family_column(family: str) -> Column:
    def cell(row: Row) -> str:
        found = row["families"][family]
        return f"{found['accuracy']:.1%}, {found['mean_forward_passes']:.1f}"

    return Column(family, cell)


def _figure(caption: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
