"""The figure of a head's fit; nothing is computed here. Needs matplotlib (`pip install demask-hf[plots]`)."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure


def reliability_figure(reliability: Sequence[dict[str, float]], file: str | Path) -> None:
    """Draw the mean measured dependency in each decile of the prediction.

    Args:
        reliability (`Sequence[dict[str, float]]`):
            What [`~metrics.reliability_of`] returns.
        file (`str` or `Path`):
            Where the figure goes; its ending says the format.
    """
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    predicted, measured = ([part[name] for part in reliability] for name in ("predicted", "measured"))
    limit = 1.05 * max(*predicted, *measured, 1e-6)
    axes.plot([0, limit], [0, limit], color="0.7", linewidth=1)
    axes.plot(predicted, measured, marker="o")
    axes.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    axes.set(xlabel="mean predicted dependency of the decile", ylabel="mean measured dependency")
    axes.set(title=f"Reliability on {sum(part['num_pairs'] for part in reliability):,} held-out pairs")
    figure.savefig(file, dpi=150)
