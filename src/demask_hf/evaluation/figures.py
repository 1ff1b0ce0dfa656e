"""Figures of comparisons; nothing is computed here. Needs matplotlib (`pip install demask-hf[plots]`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from ..drawing import plain_text, save_figure
from ..tables import Row
from .labels import Label, place_labels
from .specs import fields_of_spec


#: One color per rule, the same in all figures.
RULE_COLORS = {
    "sequential": "#444444",
    "schedule": "#8c564b",
    "threshold": "#1f77b4",
    "quota": "#6baed6",
    "frechet": "#17a2c9",
    "local_leap": "#3a57a8",
    "entropy_bound": "#9467bd",
    "klass": "#d6409f",
    "eoser": "#8a6d1d",
    "dawn": "#2a8c2a",
    "dapd": "#e07b00",
    "adas": "#c49c3a",
    "mean_field": "#4f7942",
    "freedave": "#0b4f6c",
    "prophet": "#bcbd22",
    "lossless": "#7f0000",
    "punt": "#7f7f00",
    "distance": "#b0b0b0",
    "table": "#e377c2",
    "t2m": "#17becf",
    "edit": "#1b9e77",
    "wino": "#5b3fd6",
    "demask": "#d62728",
}
# For rules registered by users.
_OTHER_COLOR = "#0f9b8e"
_MARKERS = "osD^P"
_FRONTIER_NOTE = (
    "ring: default setting; bar: 95 % bounds of the difference to one token at a time; triangle: far below the axis"
)


@dataclass(frozen=True)
class _Line:
    """Settings that differ in their limit only: the rule, the common fields, and those that differ."""

    rule: str
    fixed: tuple[str, ...]
    varied: tuple[str, ...]

    @classmethod
    def of(cls, row: Row) -> "_Line":
        rule, fields = _split(row["label"])
        _, fixed = _split(row["row"])
        return cls(rule, fixed, tuple(field.split("=")[0] for field in fields if field not in fixed))

    def name(self, lines: Sequence["_Line"]) -> str:
        """Return the rule with the first fields that distinguish this line from others of the same rule."""
        words = (*self.fixed, *self.varied)
        others = [{*line.fixed, *line.varied} for line in lines if line.rule == self.rule and line != self]
        for count in range(len(words) + 1):
            if not any(other.issuperset(words[:count]) for other in others):
                return ", ".join((self.rule, *words[:count]))
        return ", ".join((self.rule, *self.fixed))


def color_of(rule: str) -> str:
    """Return the color of a rule."""
    return RULE_COLORS.get(rule, _OTHER_COLOR)


def frontier_figure(rows: Sequence[Row], file: str | Path, title: str = "") -> None:
    """Draw right answers against forward passes: a line for each strategy, through the settings of its limit.

    The color shows the rule; a ring marks its default setting. The bars are the 95 % bounds of the paired difference
    to the setting's reference, so they show what can be distinguished. The axis covers most settings; those far below
    are triangles at its lower edge.

    Args:
        rows (`Sequence[Row]`):
            What [`~benchmark.Report.rows`] returns.
        file (`str` or `Path`):
            File to write; its extension determines the format.
        title (`str`, *optional*, defaults to `""`):
            Title of the figure.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.add_subplot()
    best, floor = max(row["accuracy"] for row in rows), _floor_of([row["accuracy"] for row in rows])
    room = max(best - floor, 0.01)
    bottom = max(floor - 0.12 * room, 0.0)
    passes = [row["mean_forward_passes"] for row in rows]
    axes.set(xscale="log", xlim=(min(passes) / 1.2, max(passes) * 1.2), title=plain_text(title))
    axes.set(ylim=(bottom, min(best + 0.12 * room, 1 + 0.02 * room)))
    lines: dict[_Line, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["mean_forward_passes"]):
        lines.setdefault(_Line.of(row), []).append(row)
    labels = []
    for number, (line, own) in enumerate(lines.items()):
        marker = _MARKERS[[other.rule for other in lines][:number].count(line.rule) % len(_MARKERS)]
        points = _draw_line(axes, line.rule, own, bottom, marker)
        hidden = [f"{row['accuracy']:.1%}" for row in own if row["accuracy"] < bottom]
        text = line.name(list(lines)) + (f": {', '.join(hidden)}" if hidden else "")
        labels.append(Label(text, points, color_of(line.rule), weight="bold" if line.rule == "demask" else "normal"))
    axes.set(xlabel=f"forward passes per prompt (fewer is better)\n{_FRONTIER_NOTE}", ylabel="right answers")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if room > 0.03 else 1))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    bars = [
        (row["mean_forward_passes"], row["accuracy"] + row["difference"][end] - row["difference"]["mean"])
        for row in rows
        for end in ("lower", "upper")
    ]
    place_labels(axes, labels, bars)
    save_figure(figure, file, dpi=120)


def _draw_line(axes: Axes, rule: str, rows: Sequence[Row], bottom: float, marker: str) -> list[tuple[float, float]]:
    """Draw the settings of one line and return their points, those below the axis on its edge."""
    color = color_of(rule)
    points = [(row["mean_forward_passes"], max(row["accuracy"], bottom)) for row in rows]
    seen = [row for row in rows if row["accuracy"] >= bottom]
    for row, point in zip(rows, points, strict=True):
        shape = marker if row in seen else "v"
        axes.plot(*point, color=color, marker=shape, markersize=5, clip_on=False, zorder=3)
        if row.get("is_default"):
            axes.plot(*point, color=color, marker="o", markersize=12, fillstyle="none", clip_on=False)
    if seen:
        axes.plot(*zip(*points, strict=True), color=color, linewidth=1.8 if rule == "demask" else 1)
        differences = [row["difference"] for row in seen]
        sides = [[abs(one[end] - one["mean"]) for one in differences] for end in ("lower", "upper")]
        places = [row["mean_forward_passes"] for row in seen], [row["accuracy"] for row in seen]
        axes.errorbar(*places, yerr=sides, linestyle="none", color=color, alpha=0.35, linewidth=1)
    return points


def _floor_of(accuracies: Sequence[float]) -> float:
    """Return the lowest accuracy to show; settings below the widest gap are not shown at their height."""
    ordered = sorted(accuracies)
    gaps = [(high - low, high) for low, high in zip(ordered[:-1], ordered[1:], strict=True)]
    width, high = max(gaps, default=(0.0, ordered[0]))
    return high if width > ordered[-1] - high else ordered[0]


def _split(label: str) -> tuple[str, tuple[str, ...]]:
    rule, _, fields = label.partition(":")
    return rule, tuple(fields_of_spec(fields))


def order_figure(
    tokens: Mapping[str, Sequence[str]], unmask_steps: Mapping[str, Sequence[int]], file: str | Path
) -> None:
    """Draw which step wrote which token of the answers to one prompt, a row for each setting, all on one scale.

    Args:
        tokens (`Mapping[str, Sequence[str]]`):
            The tokens of each answer by the label of the setting.
        unmask_steps (`Mapping[str, Sequence[int]]`):
            The step of each of these tokens, from 0, by the same labels; -1 where none wrote it.
        file (`str` or `Path`):
            File to write; its extension determines the format.
    """
    lines = [_Line(*_split(label), ()) for label in unmask_steps]
    length = max(map(len, unmask_steps.values()))
    latest = max(1, *(max(steps, default=0) for steps in unmask_steps.values()))
    grid = np.full((len(lines), length), np.nan)
    figure = Figure(figsize=(5 + 0.36 * length, 1 + 0.42 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    for number, (label, steps) in enumerate(unmask_steps.items()):
        written = [step for step in steps if step >= 0]
        axes.text(length - 0.3, number, f"{len(set(written))} steps", va="center", fontsize=9)
        for column, (token, step) in enumerate(zip(tokens[label], steps, strict=True)):
            style: dict[str, Any] = {"ha": "center", "color": "white" if step > 0.55 * latest else "black"}
            axes.text(column, number - 0.03, plain_text(short_token(token)), va="bottom", fontsize=8, **style)
            if step >= 0:
                grid[number, column] = step
                axes.text(column, number + 0.08, str(step), va="top", fontsize=6, **style)
    axes.imshow(grid, aspect="auto", cmap="YlGnBu", vmin=0, vmax=latest)
    axes.set_xticks([])
    axes.set_yticks(range(len(lines)), [plain_text(line.name(lines)) for line in lines], fontsize=9)
    for text, line in zip(axes.get_yticklabels(), lines, strict=True):
        text.set(color=color_of(line.rule), fontweight="bold" if line.rule == "demask" else "normal")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="tokens of the answers; below each token, the step that wrote it, from 0; darker means later")
    save_figure(figure, file, dpi=120)


def short_token(token: str) -> str:
    """Return a short label of a token: blanks as characters, long tokens truncated."""
    shown = token.replace("Ġ", "_").replace(" ", "_").replace("Ċ", "\\n")
    return shown if len(shown) <= 5 else f"{shown[:4]}…"
