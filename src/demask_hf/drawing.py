"""What all figures share: texts that are shown as they are, and one sentence if a file cannot be written."""

from pathlib import Path
from typing import Any

from .files import writing


def plain_text(text: str) -> str:
    """Return a text for matplotlib, which would read what stands between dollar signs as a formula.

    Half a surrogate pair, which no file can hold, becomes a question mark.
    """
    return text.encode("utf-8", errors="replace").decode().replace("$", r"\$")


def save_figure(figure: Any, file: str | Path, dpi: float) -> None:
    """Write a figure of matplotlib.

    Args:
        figure (`matplotlib.figure.Figure`):
            The figure.
        file (`str` or `Path`):
            File to write; its extension determines the format.
        dpi (`float`):
            Resolution in dots per inch.

    Raises:
        WriteError: if the file cannot be written.
    """
    with writing(Path(file)):
        figure.savefig(file, dpi=dpi)
