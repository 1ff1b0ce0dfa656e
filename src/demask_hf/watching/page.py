"""The page that shows traces: one file of HTML with its style, its program and the traces in it."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import read_text, write_text


_FOLDER = Path(__file__).parent
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
    data = json.dumps(list(traces), allow_nan=False, separators=(",", ":")).translate(_ESCAPES)
    return _filled("start", "", "", data)


def live_page() -> str:
    """Return the page of a server, which sends prompts to it and shows their decodings while they run.

    It talks to the server that it came from, and to no other.
    """
    return _filled("live", "connect-src 'self'; ", read_text(_FOLDER / "live.html"), "[]")


def page_style() -> str:
    """Return the style that all pages of the package share."""
    return read_text(_FOLDER / "page.css")


def _filled(program: str, connect: str, form: str, data: str) -> str:
    """Return the page that a program, a rule where it may connect to, a form and traces make."""
    script = "".join(read_text(_FOLDER / f"{name}.js") for name in ("viewer", "export", program))
    style = page_style() + read_text(_FOLDER / "viewer.css")
    # The browser runs the script with this hash, and no other, whatever a text in the page holds.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = read_text(_FOLDER / "viewer.html")
    # The traces come last, so that nothing in them is taken for a mark.
    parts = {"hash": f"sha256-{digest}", "connect": connect, "style": style, "form": form, "script": script}
    for name, part in {**parts, "traces": data}.items():
        page = page.replace(f"{{{{{name}}}}}", part, 1)
    return page


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
