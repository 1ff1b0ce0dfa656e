"""One HTML file to look at: tables and figures of a comparison, with nothing to fetch."""

import base64
import os
import platform
from collections.abc import Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..files import write_text


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; font-family: monospace; }
th { border-bottom: 2px solid #888; vertical-align: bottom; white-space: normal; }
tr.worse td { color: #a33; }
img { max-width: 100%; }
figure { margin: 1.5rem 0; } figcaption { color: #555; }
"""
_COLUMNS = {
    "setting": "label",
    "right": lambda row: f"{row['accuracy']:.2%}",
    "sd over seeds": lambda row: "" if row["num_seeds"] < 2 else f"{row['accuracy_sd']:.2%}",
    "compared with": "reference",
    "difference in points": lambda row: f"{100 * row['difference']['mean']:+.2f}",
    "its one-sided 95 % bounds": lambda row: (
        f"{100 * row['difference']['lower']:+.2f}, {100 * row['difference']['upper']:+.2f}"
    ),
    "p (Holm)": lambda row: f"{row['p_value']:.2g}",
    "accuracy kept": lambda row: "yes" if row["is_matched"] else "not shown",
    "forward passes": lambda row: f"{row['num_forward_passes']:.2f}",
    "fewer passes": lambda row: f"{row['speed_up']['value']:.2f}x",
    "its 95 % interval": lambda row: f"{row['speed_up']['lower']:.2f} to {row['speed_up']['upper']:.2f}",
    "over the whole length": lambda row: (
        "" if row["whole_length_forward_passes"] is None else f"{row['whole_length_forward_passes']:.2f}"
    ),
    "tokens per pass": lambda row: f"{row['tokens_per_forward']:.2f}",
    "AFP": lambda row: f"{row['average_finalization_parallelism']:.2f}",
    "left to right (tau-b)": lambda row: f"{row['left_to_right']:+.2f}",
    "different right answers of a prompt": lambda row: _diverse(row, "{num_distinct_valid:.2f}"),
    "distance of its answers (by chance)": lambda row: _diverse(row, "{distance:.3f} ({expected_distance:.3f})"),
    "tokens per second": lambda row: f"{row['tokens_per_second']:.0f}",
}


def write_report(
    file: Path, title: str, rows: Sequence[dict[str, Any]], facts: dict[str, Any], figures: dict[str, Path]
) -> None:
    """Write the report of a comparison; the file is replaced only when complete.

    Args:
        file (`Path`):
            Where it goes.
        title (`str`):
            Its heading.
        rows (`Sequence[dict]`):
            What [`~benchmark.Report.rows`] returns.
        facts (`dict`):
            What was measured on what, shown as a list.
        figures (`dict[str, Path]`):
            PNG files by what is said under them; they become part of the report.
    """
    chosen, others = ([row for row in rows if row["is_chosen"] is kind] for kind in (True, False))
    families = sorted({family for row in rows for family in row["families"]})
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        "<dl>",
        *(f"<dt><b>{escape(str(name))}</b></dt><dd>{escape(str(value))}</dd>" for name, value in facts.items()),
        "</dl><h2>Settings</h2>",
        "<p>Each setting is compared with one token per forward pass with the same order of positions and the same "
        "draws, on the same prompts. A row is red where it is not shown that the accuracy is kept.</p>",
        _table(_COLUMNS, chosen),
        *(["<h2>Their neighbours in the grid</h2>", _table(_COLUMNS, others)] if others else []),
        *(_figure(caption, path) for caption, path in figures.items()),
        "<h2>By task: right answers, forward passes</h2>",
        _table({"setting": "label", **{family: _family_cell(family) for family in families}}, chosen),
        "<h2>Order of right and wrong answers: AFP, tau-b</h2>",
        _table({"setting": "label", **{verdict: _order_cell(verdict) for verdict in ("right", "wrong")}}, chosen),
    ]
    write_text(file, "\n".join(parts) + "\n")


def environment() -> dict[str, str]:
    """Return hardware and versions, for reports."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    return {"hardware": device, "versions": f"Python {platform.python_version()}, {versions}"}


def _table(columns: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = []
    for row in rows:
        cells = (escape(str(row[cell] if isinstance(cell, str) else cell(row))) for cell in columns.values())
        style = "" if row["is_matched"] else " class=worse"
        lines.append(f"<tr{style}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _diverse(row: dict[str, Any], text: str) -> str:
    return "" if row["diversity"] is None else text.format(**row["diversity"])


def _order_cell(verdict: str) -> Any:
    def cell(row: dict[str, Any]) -> str:
        found = row["order"][verdict]
        return f"{found['average_finalization_parallelism']:.2f}, {found['left_to_right']:+.2f}"

    return cell


def _family_cell(family: str) -> Any:
    def cell(row: dict[str, Any]) -> str:
        found = row["families"][family]
        return f"{found['accuracy']:.1%}, {found['num_forward_passes']:.1f}"

    return cell


def _figure(caption: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
