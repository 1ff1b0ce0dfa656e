"""Figures of measured errors and dependencies; nothing is computed here. Needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from .measurement import SetMeasurement


def bound_figure(selected: Sequence[SetMeasurement], random: Sequence[SetMeasurement], file: str | Path) -> None:
    """Draw the measured error of every set against the sum of dependencies: exact ones, then the head's.

    Args:
        selected (`Sequence[SetMeasurement]`):
            Sets that the rule selects.
        random (`Sequence[SetMeasurement]`):
            Random sets of the same sizes.
        file (`str` or `Path`):
            Where the figure goes; its ending says the format.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    limits = (-0.001, 10)
    names = ("sum of exact dependencies", "sum of the head's dependencies")
    for axes, name, costs in zip(panels, names, ("costs", "head_costs"), strict=True):
        for label, sets, marker in (("random", random, "x"), ("selected", selected, "o")):
            shown = [one for one in sets if getattr(one, costs) is not None]
            points = [(sum(getattr(one, costs)), one.total_variation.value) for one in shown]
            if points:
                axes.scatter(*zip(*points, strict=True), s=14, marker=marker, alpha=0.7, label=label)
        axes.plot(limits, limits, color="0.6", linewidth=1)
        # The same scales, linear around 0, so that equal values lie on a straight line.
        axes.set_xscale("symlog", linthresh=0.01)
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set(xlabel=name, xlim=limits, ylim=(limits[0], 1.5))
    panels[0].set(ylabel="measured total variation")
    panels[0].legend()
    figure.suptitle("The bound holds on and below the line")
    figure.savefig(file, dpi=110)


def tightness_figure(ratios: dict[str, Sequence[float]], file: str | Path) -> None:
    """Draw how many times the measured error the bound is.

    Args:
        ratios (`dict[str, Sequence[float]]`):
            Bound / error of the sets of each kind.
        file (`str` or `Path`):
            Where the figure goes; its ending says the format.
    """
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    limits = [0.5 * 1.25**place for place in range(22)]
    for label, values in ratios.items():
        axes.hist(values, bins=limits, histtype="step", label=f"{label} ({len(values)} sets)")
    axes.axvline(1, color="0.6", linewidth=1)
    axes.set_xscale("log")
    axes.set(xlabel="bound / measured total variation", ylabel="sets")
    axes.legend()
    figure.savefig(file, dpi=110)


def dependency_figure(labels: Sequence[str], maps: dict[str, torch.Tensor], file: str | Path) -> None:
    """Draw the dependencies of one state as heat maps side by side, such as measured ones and the head's.

    Args:
        labels (`Sequence[str]`):
            What stands at each position, such as its likeliest token.
        maps (`dict[str, torch.Tensor]`):
            `D[source, target]` of shape `(positions, positions)` by the title of its map.
        file (`str` or `Path`):
            Where the figure goes; its ending says the format.
    """
    figure = Figure(figsize=(0.6 + 4.4 * len(maps), 4.4), layout="constrained")
    panels = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    for axes, (name, matrix) in zip(panels, maps.items(), strict=True):
        image = axes.imshow(matrix.cpu().numpy(), vmin=0, vmax=1, cmap="magma_r")
        axes.set(title=name, xlabel="target")
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
    panels[0].set(ylabel="source")
    figure.colorbar(image, ax=panels, label="dependency (total variation)", shrink=0.8)
    figure.savefig(file, dpi=110)
