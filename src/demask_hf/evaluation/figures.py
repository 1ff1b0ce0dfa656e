"""Figures; nothing is computed here. Needs matplotlib (`pip install demask-hf[plots]`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter


_MAX_LABEL = 50


def calibration_figure(calibration: Sequence[dict[str, float]], file: str | Path) -> None:
    """Draw the mean measured dependency in each decile of the prediction.

    Args:
        calibration (`Sequence[dict[str, float]]`):
            What [`~fit.calibration_of`] returns.
        file (`str` or `Path`):
            Where the figure goes; its ending says the format.
    """
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    predicted, measured = ([part[name] for part in calibration] for name in ("predicted", "measured"))
    limit = 1.05 * max(*predicted, *measured, 1e-6)
    axes.plot([0, limit], [0, limit], color="0.7", linewidth=1)
    axes.plot(predicted, measured, marker="o")
    axes.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    axes.set(xlabel="mean predicted dependency of the decile", ylabel="mean measured dependency")
    axes.set(title=f"Calibration on {sum(part['num_pairs'] for part in calibration):,} held-out pairs")
    figure.savefig(file, dpi=150)


def frontier_figure(rows: Sequence[dict[str, Any]], file: str | Path) -> None:
    """Draw accuracy against forward passes: points with 95 % error bars, and the Pareto front of each row of a table.

    The front of a row joins its settings that no other one of the row beats in both. The bars are those of the paired
    difference to the setting's reference, so that they say what can be told apart.

    Args:
        rows (`Sequence[dict]`):
            What [`~benchmark.Report.rows`] returns.
        file (`str` or `Path`):
            Where the figure goes; its ending says the format.
    """
    names = list(dict.fromkeys(row["row"] for row in rows))
    figure = Figure(figsize=(8, 4.5 + 0.13 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for index, name in enumerate(names):
        own = [row for row in rows if row["row"] == name]
        passes, accuracy = ([row[field] for row in own] for field in ("num_forward_passes", "accuracy"))
        below, above = (
            [abs(row["difference"][end] - row["difference"]["mean"]) for row in own] for end in ("lower", "upper")
        )
        style = {"color": f"C{index % 10}", "marker": "osD^v"[index // 10 % 5]}
        axes.errorbar(passes, accuracy, yerr=(below, above), linestyle="none", capsize=2, label=_short(name), **style)
        front = sorted((row["num_forward_passes"], row["accuracy"]) for row in own if row["is_on_front"])
        axes.plot(*zip(*front, strict=True), color=style["color"], linewidth=1)
    axes.set(xscale="log", xlabel="forward passes per prompt", ylabel="right answers")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6, 8)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    figure.savefig(file, dpi=120)


def order_figure(tokens: Sequence[str], unmask_steps: dict[str, Sequence[int]], file: str | Path) -> None:
    """Draw which step wrote each token of one answer, one line for each way of decoding.

    Args:
        tokens (`Sequence[str]`):
            Names of the positions.
        unmask_steps (`dict[str, Sequence[int]]`):
            Step of each position by the name of the setting; -1 where none wrote it.
        file (`str` or `Path`):
            Where the figure goes; its ending says the format.
    """
    figure = Figure(figsize=(4.5 + 0.3 * len(tokens), 1.2 + 0.3 * len(unmask_steps)), layout="constrained")
    axes = figure.add_subplot()
    # Each line is scaled by its own number of steps: the order is compared, the count stands in the cells.
    grid = [
        [step / max(1, *steps) if step >= 0 else float("nan") for step in steps] for steps in unmask_steps.values()
    ]
    axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0, vmax=1)
    for line, steps in enumerate(unmask_steps.values()):
        for column, step in enumerate(steps):
            color = "black" if step > 0.6 * max(steps) else "white"
            axes.text(column, line, step if step >= 0 else "", ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(range(len(tokens)), tokens, fontsize=8, rotation=90)
    axes.set_yticks(range(len(unmask_steps)), map(_short, unmask_steps), fontsize=8)
    axes.set(xlabel="position of the answer (step that wrote it, from 0)")
    figure.savefig(file, dpi=120)


def _short(label: str) -> str:
    """Return a label that fits, cut in the middle."""
    if len(label) <= _MAX_LABEL:
        return label
    return f"{label[: _MAX_LABEL // 2]}...{label[-_MAX_LABEL // 2 + 3 :]}"
