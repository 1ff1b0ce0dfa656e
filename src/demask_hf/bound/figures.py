"""Figures of measured errors and dependencies, without computations. Needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..drawing import plain_text, save_figure
from ..evaluation.figures import RULE_COLORS, short_token
from ..evaluation.labels import Label, place_labels
from .measurement import SetMeasurement


# Of the sets of each kind: the rule's own, and those that it is compared with.
_COLORS = {"selected": RULE_COLORS["demask"], "most confident": RULE_COLORS["threshold"], "random": "#444444"}
_MARKERS = {"selected": "o", "most confident": "+", "random": "x"}
# Dependencies that a heat map would not show.
_NEGLIGIBLE = 0.02


def bound_figure(kinds: Mapping[str, Sequence[SetMeasurement]], file: str | Path) -> None:
    """Draw the measured error of every set against the sum of dependencies: exact ones, then the head's.

    Args:
        kinds (`Mapping[str, Sequence[SetMeasurement]]`):
            The sets of each kind: "selected", those that the rule selects, "most confident" and "random".
        file (`str` or `Path`):
            File to write; its extension determines the format.
    """
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    limits = (-0.001, 10)
    names = ("sum of exact dependencies", "sum of the head's dependencies")
    for axes, name, costs in zip(panels, names, ("costs", "head_costs"), strict=True):
        labels: list[Label] = []
        # The line where the bound is the error, and the points.
        drawn = [(10 ** (power / 10), 10 ** (power / 10)) for power in range(-30, 10)]
        axes.plot(limits, limits, color="0.6", linewidth=1)
        # The same scales, linear around 0, so that equal values lie on a straight line.
        axes.set_xscale("symlog", linthresh=0.01)
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set(xlabel=name, xlim=limits, ylim=(limits[0], 2))
        axes.text(0.03, 0.96, "above the line the bound fails", transform=axes.transAxes, color="0.45", va="top")
        axes.text(0.97, 0.03, "below it holds", transform=axes.transAxes, color="0.45", ha="right")
        # The rule's own sets last, on top.
        for kind, sets in reversed(list(kinds.items())):
            shown = [one for one in sets if getattr(one, costs) is not None]
            points = [(sum(getattr(one, costs)), one.total_variation.value) for one in shown]
            if points:
                axes.scatter(*zip(*points, strict=True), s=16, marker=_MARKERS[kind], alpha=0.7, color=_COLORS[kind])
                drawn += points
                # Beside one of the larger half, where points of one kind lie together.
                larger = sorted(points, key=sum)[len(points) // 2 :]
                labels.append(Label(f"{kind} sets", larger, _COLORS[kind], size=10, is_line=False))
        place_labels(axes, labels, drawn)
    panels[0].set(ylabel="measured total variation")
    save_figure(figure, file, dpi=110)


def tightness_figure(ratios: dict[str, Sequence[float]], file: str | Path) -> None:
    """Draw the ratio of the bound to the measured error.

    Args:
        ratios (`dict[str, Sequence[float]]`):
            Bound / error of the sets of each kind.
        file (`str` or `Path`):
            File to write; its extension determines the format.
    """
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    limits = [0.5 * 1.25**place for place in range(22)]
    labels = []
    for number, (kind, values) in enumerate(ratios.items()):
        color = _COLORS.get(kind, f"C{number}")
        counts, edges, _ = axes.hist(values, bins=limits, histtype="step", color=color, linewidth=1.6)
        # Beside the last of the highest bars.
        count, edge = max(zip(counts, edges[1:], strict=True))
        labels.append(Label(f"{kind} ({len(values)} sets)", [(edge, count)], color, size=10))
    axes.axvline(1, color="0.6", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="sum of dependencies / measured total variation (1: the bound is the error)", ylabel="sets")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.12)
    place_labels(axes, labels)
    save_figure(figure, file, dpi=110)


def dependency_figure(labels: Sequence[str], maps: dict[str, torch.Tensor], file: str | Path) -> None:
    """Draw the dependencies of one state as heat maps side by side, such as measured ones and the head's.

    Positions at the end that repeat a label and depend on nothing, such as the end of sequence, are shown once.

    Args:
        labels (`Sequence[str]`):
            Label of each position, such as its most likely token.
        maps (`dict[str, torch.Tensor]`):
            `D[source, target]` of shape `(positions, positions)` by the title of its map.
        file (`str` or `Path`):
            File to write; its extension determines the format.
    """
    size = _shown_size(labels, maps)
    shown = [short_token(label) for label in labels[:size]]
    texts = [plain_text(label) for label in shown]
    figure = Figure(figsize=(0.6 + 4.8 * len(maps), 4.6), layout="constrained")
    panels = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    for axes, (name, matrix) in zip(panels, maps.items(), strict=True):
        image = axes.imshow(matrix[:size, :size].cpu().numpy(), vmin=0, vmax=1, cmap="magma_r")
        axes.set(title=plain_text(name), xlabel="target")
        axes.set_xticks(range(size), texts, fontsize=8, rotation=90 if max(map(len, shown)) > 2 else 0)
        axes.set_yticks(range(size), texts, fontsize=8)
        axes.tick_params(length=0)
    panels[0].set(ylabel="source")
    figure.colorbar(image, ax=panels, label="dependency (total variation)", shrink=0.8)
    save_figure(figure, file, dpi=110)


def _shown_size(labels: Sequence[str], maps: dict[str, torch.Tensor]) -> int:
    """Return the number of positions before the repetitions at the end that depend on nothing."""
    size = len(labels)
    while size > 2 and labels[size - 1] == labels[size - 2]:
        last = size - 1
        if any(max(matrix[last].max(), matrix[:, last].max()) > _NEGLIGIBLE for matrix in maps.values()):
            break
        size = last
    return size
