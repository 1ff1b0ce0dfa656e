"""The report of a comparison: one HTML file with tables and figures, without external parts."""

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
from ..tables import Column, Row, html_lines
from .benchmark import COLUMNS


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


def write_report(file: Path, title: str, rows: Sequence[Row], facts: dict[str, Any], figures: dict[str, Path]) -> None:
    """Write the report of a comparison, completely or not at all.

    Args:
        file (`Path`):
            File to write.
        title (`str`):
            Its heading.
        rows (`Sequence[dict]`):
            What [`~benchmark.Report.rows`] returns.
        facts (`dict`):
            Facts about the measurement, shown as a list.
        figures (`dict[str, Path]`):
            PNG files by their captions; they are embedded in the report.
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
        "draws, on the same prompts. A row is red if it is not shown that the accuracy is kept.</p>",
        *_table(COLUMNS, chosen),
        *(["<h2>Their neighbours in the grid</h2>", *_table(COLUMNS, others)] if others else []),
        *(_figure(caption, path) for caption, path in figures.items()),
        "<h2>By task: right answers, forward passes</h2>",
        *_table([COLUMNS[0], *map(_family_column, families)], chosen),
        "<h2>Order of right and wrong answers: AFP, tau-b</h2>",
        *_table([COLUMNS[0], *map(_order_column, ("right", "wrong"))], chosen),
    ]
    # A prompt or an answer may hold half a surrogate pair, which no file can.
    write_text(file, "\n".join(parts).encode("utf-8", errors="replace").decode() + "\n")


def environment() -> dict[str, str]:
    """Return a description of hardware and versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    return {"hardware": device, "versions": f"Python {platform.python_version()}, {versions}"}


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    return html_lines(columns, rows, lambda row: None if row["is_matched"] or row["is_reference"] else "worse")


def _order_column(verdict: str) -> Column:
    def cell(row: Row) -> str:
        found = row["order"][verdict]
        return f"{found['average_finalization_parallelism']:.2f}, {found['left_to_right']:+.2f}"

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
