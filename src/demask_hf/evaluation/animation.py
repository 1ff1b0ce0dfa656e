"""An animation of decoding: several strategies fill the answer to one prompt, one forward pass per frame.

Needs matplotlib (`pip install demask-hf[plots]`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from ..drawing import plain_text, save_figure
from ..files import replacing
from .decoding import Decoding
from .figures import color_of


_WIDTH, _MARGIN = 800, 22
_TOP, _ROW, _CELL = 84, 84, 34
_FRAME_MILLISECONDS, _END_MILLISECONDS = 400, 5_000
_MASKED, _INK, _SOFT = "#e3e3e6", "#222222", "#6b6b70"


@dataclass(frozen=True)
class AnimatedRow:
    """One way to decode the prompt.

    Args:
        title (`str`): What it is called.
        rule (`str`): Name of its strategy, for the color.
        decoding ([`Decoding`]): What it wrote, and when.
        tokens (`Sequence[str]`): The texts of its tokens.
    """

    title: str
    rule: str
    decoding: Decoding
    tokens: Sequence[str]


def decoding_animation(rows: Sequence[AnimatedRow], file: str | Path, note: str = "") -> None:
    """Write an animated GIF in which every frame is one forward pass of all strategies, and pauses at the end.

    Args:
        rows (`Sequence[AnimatedRow]`):
            Decodings of the same prompt, from top to bottom.
        file (`str` or `Path`):
            File to write.
        note (`str`, *optional*, defaults to `""`):
            Text below the prompt.
    """
    figure = _figure(rows)
    canvas = FigureCanvasAgg(figure)
    frames = []
    # From the masked answer to one frame after the last pass, in which nothing is new.
    for number in range(_num_passes(rows) + 2):
        _draw_frame(figure, rows, number, note)
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    # One palette for all frames, that of the last, which has every color: the file is a quarter of the size.
    palette = frames[-1].quantize(64)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [*[_FRAME_MILLISECONDS] * (len(frames) - 1), _END_MILLISECONDS]
    with replacing(Path(file)) as temporary:
        frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def decoding_figure(rows: Sequence[AnimatedRow], file: str | Path, note: str = "") -> None:
    """Draw the last frame of [`decoding_animation`].

    Args:
        rows (`Sequence[AnimatedRow]`):
            Decodings of the same prompt, from top to bottom.
        file (`str` or `Path`):
            File to write; its extension determines the format.
        note (`str`, *optional*, defaults to `""`):
            Text below the prompt.
    """
    figure = _figure(rows)
    _draw_frame(figure, rows, _num_passes(rows) + 1, note)
    save_figure(figure, file, dpi=2 * figure.dpi)


def _num_passes(rows: Sequence[AnimatedRow]) -> int:
    return max(row.decoding.num_forward_passes for row in rows)


def _figure(rows: Sequence[AnimatedRow]) -> Figure:
    return Figure(figsize=(_WIDTH / 100, (_TOP + _ROW * len(rows) + 8) / 100), dpi=100)


def _draw_frame(figure: Figure, rows: Sequence[AnimatedRow], num_passes: int, note: str) -> None:
    """Draw the state after some forward passes, in units of pixels from the upper left corner."""
    figure.clear()
    height = 100 * figure.get_figheight()
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    _write(axes, _MARGIN, 24, rows[0].decoding.prompt, family="monospace", fontsize=14, color=_INK, va="center")
    _write(axes, _MARGIN, 50, note, fontsize=10, color=_SOFT, va="center")
    for number, row in enumerate(rows):
        _draw_row(axes, row, _TOP + _ROW * number, num_passes)
    legend = "gray: still masked    strong color: written in this pass    number: the pass that wrote the token"
    _write(axes, _MARGIN, height - 18, legend, fontsize=9, color=_SOFT, va="center")


def _draw_row(axes: Axes, row: AnimatedRow, top: float, num_passes: int) -> None:
    needed, color = row.decoding.num_forward_passes, color_of(row.rule)
    is_done = num_passes >= needed
    state = f"{needed} forward passes" if is_done else f"pass {num_passes}"
    weight = "bold" if row.rule == "demask" else "normal"
    _write(axes, _MARGIN, top, row.title, fontsize=12, color=color, fontweight=weight, va="center")
    _write(
        axes,
        _WIDTH - _MARGIN,
        top,
        state,
        fontsize=12,
        color=color if is_done else _SOFT,
        fontweight="bold" if is_done else "normal",
        ha="right",
        va="center",
    )
    width = (_WIDTH - 2 * _MARGIN) / max(len(row.tokens), 1)
    for column, (token, step) in enumerate(zip(row.tokens, row.decoding.unmask_steps, strict=True)):
        left, middle = _MARGIN + column * width, _MARGIN + (column + 0.5) * width
        is_written, is_new = step < num_passes, 0 <= step == num_passes - 1
        face = color if is_new else _pale(color) if is_written else _MASKED
        axes.add_patch(
            FancyBboxPatch(
                (left + 2, top + 16), width - 4, _CELL, boxstyle="round,pad=0,rounding_size=4", color=face, linewidth=0
            )
        )
        if is_written:
            ink = "white" if is_new else _INK
            size = 12 if len(token) < 3 else 7
            _write(axes, middle, top + 29, token, fontsize=size, color=ink, ha="center", va="center")
            # Tokens of the prompt have no pass.
            _write(axes, middle, top + 43, str(step + 1 or ""), fontsize=6.5, color=ink, ha="center", va="center")


def _write(axes: Axes, right: float, down: float, text: str, **style: Any) -> None:
    """Write a text as it is."""
    axes.text(right, down, plain_text(text), usetex=False, **style)


def _pale(color: str) -> tuple[float, ...]:
    return tuple(1 - 0.25 * (1 - part) for part in to_rgb(color))
