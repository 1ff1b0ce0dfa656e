"""The page that shows traces: one file of HTML with its style, its program and the traces in it."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import read_text, write_text


# Height of the frame in a notebook, in pixels.
_FRAME_HEIGHT = 640
# Characters that end a script or a line of one, where JSON stands in a page.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def page_of(traces: Sequence[dict[str, Any]]) -> str:
    """Return a page that shows decodings side by side; it loads nothing, and runs no program but its own.

    Args:
        traces (`Sequence[dict[str, Any]]`):
            What [`Trace.to_dict`] returns, at least one.

    Raises:
        ValueError: if there is no trace.
    """
    if not traces:
        raise ValueError("`traces` must hold at least one trace, got none.")
    folder = Path(__file__).parent
    template, style, script = (read_text(folder / f"viewer.{kind}") for kind in ("html", "css", "js"))
    # The browser runs the script with this hash, and no other, whatever a text in the page holds.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(list(traces), allow_nan=False, separators=(",", ":")).translate(_ESCAPES)
    # The traces come last, so that nothing in them is taken for a mark.
    for name, part in {"hash": f"sha256-{digest}", "style": style, "script": script, "traces": data}.items():
        template = template.replace(f"{{{{{name}}}}}", part, 1)
    return template


def write_page(traces: Sequence[dict[str, Any]], file: str | Path) -> None:
    """Write the page of [`page_of`], completely or not at all.

    Args:
        traces (`Sequence[dict[str, Any]]`):
            What [`Trace.to_dict`] returns, at least one.
        file (`str` or `Path`):
            File to write; its folder must exist.

    Raises:
        ValueError: if there is no trace.
        WriteError: if the file cannot be written.
    """
    write_text(Path(file), page_of(traces))


def frame_of(traces: Sequence[dict[str, Any]]) -> str:
    """Return the page in a frame that has no access to what is around it, for a notebook.

    Args:
        traces (`Sequence[dict[str, Any]]`):
            What [`Trace.to_dict`] returns, at least one.

    Raises:
        ValueError: if there is no trace.
    """
    return (
        f'<iframe title="How the answer was decoded" sandbox="allow-scripts allow-downloads" width="100%" '
        f'height="{_FRAME_HEIGHT}" style="border: 0" srcdoc="{html.escape(page_of(traces))}"></iframe>'
    )
