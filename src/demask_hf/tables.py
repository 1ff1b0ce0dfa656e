"""Tables: one list of columns gives lines of text, Markdown or HTML."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from typing import Any


Row = Mapping[str, Any]
#: Width of a table of text that goes elsewhere than to a terminal.
MAX_WIDTH = 100
_UNKNOWN = "-"
_GAP = "  "
# Before the continuation of a cell on the next line, to show where a new row begins.
_INDENT = "  "


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        title (`str`):
            Its heading; a line break in it is kept in tables of text.
        value (`str` or `Callable[[Row], object]`):
            Key of the row, or a function of the row.
        form (`str`, *optional*, defaults to `""`):
            Format of the value, as after the colon of an f-string, such as ".2f".
        is_text (`bool`, *optional*, defaults to `False`):
            Whether cells are aligned to the left, and wrapped where a table of text would be too wide.
    """

    title: str
    value: str | Callable[[Row], object]
    form: str = ""
    is_text: bool = False

    def cell(self, row: Row) -> str:
        """Return the formatted value of a row; an unknown value (`None` or NaN) is a hyphen."""
        value = row[self.value] if isinstance(self.value, str) else self.value(row)
        return _UNKNOWN if value is None or value != value else format(value, self.form)


def terminal_width() -> int:
    """Return the width of the terminal, or 100 where there is none."""
    return shutil.get_terminal_size((MAX_WIDTH, 24)).columns


def text_lines(columns: Sequence[Column], rows: Sequence[Row], max_width: float | None = None) -> list[str]:
    """Return a table as lines of text, for a terminal.

    Where it would be too wide, titles are wrapped first, then the cells of text columns; then columns that have no
    room follow below, beside the first one again. No number is wrapped.

    Args:
        columns (`Sequence[Column]`):
            The columns.
        rows (`Sequence[Row]`):
            The rows.
        max_width (`float`, *optional*):
            Characters in a line, by default [`terminal_width`]; `inf` for no limit.

    Example:

    ```python
    >>> columns = [Column("rule", "rule", is_text=True), Column("passes", "passes", ".2f")]
    >>> for line in text_lines(columns, [{"rule": "demask", "passes": 3}, {"rule": "klass", "passes": 13.3}]):
    ...     print(line)
    rule    passes
    demask    3.00
    klass    13.30

    ```
    """
    cells = [[column.cell(row).replace("\n", "\\n") for column in columns] for row in rows]
    titles = [column.title.split("\n") for column in columns]
    widths = [max(map(len, [*title, *own])) for title, own in zip(titles, _transposed(cells, columns), strict=True)]
    max_width = terminal_width() if max_width is None else max_width
    if _width_of(widths) > max_width:
        widths = _fitted(columns, cells, int(max_width))
        kept = _num_fitting(widths, max_width)
        if kept < len(columns):
            first = text_lines(columns[:kept], rows, max_width)
            return [*first, "", *text_lines([columns[0], *columns[kept:]], rows, max_width)]
    heads = [
        [line for part in title for line in _wrapped(part, width)] for title, width in zip(titles, widths, strict=True)
    ]
    height = max(map(len, heads))
    # Titles are aligned by their last lines, cells by their first lines.
    lines = list(zip(*([""] * (height - len(head)) + head for head in heads), strict=True))
    for row in cells:
        wrapped = (_wrapped(cell, width, _INDENT) for cell, width in zip(row, widths, strict=True))
        lines += zip_longest(*wrapped, fillvalue="")
    return [_line(columns, parts, widths) for parts in lines]


def markdown_lines(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Return a table as lines of Markdown.

    Args:
        columns (`Sequence[Column]`):
            The columns.
        rows (`Sequence[Row]`):
            The rows.
    """
    head = [[_joined(column.title) for column in columns], ["---" if column.is_text else "---:" for column in columns]]
    body = [[_joined(column.cell(row)).replace("|", "\\|") for column in columns] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (*head, *body)]


def html_lines(
    columns: Sequence[Column], rows: Sequence[Row], class_of: Callable[[Row], str | None] | None = None
) -> list[str]:
    """Return a table as lines of HTML.

    Args:
        columns (`Sequence[Column]`):
            The columns.
        rows (`Sequence[Row]`):
            The rows.
        class_of (`Callable[[Row], str | None]`, *optional*):
            Gives the class of a row, for its style.
    """
    head = "".join(f"<th>{escape(_joined(column.title))}</th>" for column in columns)
    lines = [f"<table><thead><tr>{head}</tr></thead><tbody>"]
    for row in rows:
        name = class_of(row) if class_of is not None else None
        cells = "".join(f"<td>{escape(column.cell(row))}</td>" for column in columns)
        lines.append(f"<tr{f' class={name}' if name else ''}>{cells}</tr>")
    return [*lines, "</tbody></table>"]


def _joined(text: str) -> str:
    return " ".join(text.split("\n")).strip()


def _width_of(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _fitted(columns: Sequence[Column], cells: Sequence[Sequence[str]], max_width: int) -> list[int]:
    """Return narrower widths: titles wrapped, then the widest text columns, as far as their words allow."""
    own = _transposed(cells, columns)
    titles = [_longest(_pieces(column.title)) for column in columns]
    widths = [max([title, *map(len, texts)]) for title, texts in zip(titles, own, strict=True)]
    for index in sorted(range(len(columns)), key=lambda index: -widths[index]):
        excess = _width_of(widths) - max_width
        if excess > 0 and columns[index].is_text:
            narrowest = max([titles[index], *(len(_INDENT) + _longest(_pieces(text)) for text in own[index])])
            widths[index] = max(narrowest, widths[index] - excess)
    return widths


def _num_fitting(widths: Sequence[int], max_width: float) -> int:
    """Return how many columns from the left fit, at least the first one and one more."""
    fitting = [number for number in range(2, len(widths) + 1) if _width_of(widths[:number]) <= max_width]
    return max(fitting, default=min(2, len(widths)))


def _transposed(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> list[list[str]]:
    """Return the cells by column, also if there are no rows."""
    return [[row[index] for row in cells] for index in range(len(columns))]


def _pieces(text: str) -> list[str]:
    """Return the parts between which a line may end: after a space, comma or colon."""
    return re.findall(r"[^ ,:\n]*[ ,:\n]+|[^ ,:\n]+", text) or [""]


def _longest(pieces: Sequence[str]) -> int:
    return max(len(piece.rstrip()) for piece in pieces)


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return a text as lines of at most `width` characters, or of one piece that is longer."""
    if len(text) <= width:
        return [text]
    lines = [""]
    for piece in _pieces(text):
        if lines[-1].strip() and len((lines[-1] + piece).rstrip()) > width:
            lines.append(indent)
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = (
        f"{cell:<{width}}" if column.is_text else f"{cell:>{width}}"
        for column, cell, width in zip(columns, cells, widths, strict=True)
    )
    return _GAP.join(aligned).rstrip()
