"""The figure of a head's fit; nothing is computed here. Needs matplotlib (`pip install demask-hf[plots]`)."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..drawing import save_figure


# Below it the scales are linear, above it logarithmic.
_LINEAR = 1e-3


def reliability_figure(reliability: Sequence[dict[str, float]], file: str | Path) -> None:
    """Draw the mean measured dependency in each decile of the prediction.

    Args:
        reliability (`Sequence[dict[str, float]]`):
            What [`~metrics.reliability_of`] returns.
        file (`str` or `Path`):
            File to write; its extension determines the format.
    """
    figure = Figure(figsize=(4.8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    predicted, measured = ([part[name] for part in reliability] for name in ("predicted", "measured"))
    limits = (-_LINEAR / 10, 1.5 * max(*predicted, *measured, _LINEAR))
    axes.plot(limits, limits, color="0.6", linewidth=1)
    axes.plot(predicted, measured, marker="o", color="#d62728")
    # Most deciles lie near 0, where the scales are linear.
    axes.set_xscale("symlog", linthresh=_LINEAR)
    axes.set_yscale("symlog", linthresh=_LINEAR)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.text(0.03, 0.96, "the head predicts too little", transform=axes.transAxes, color="0.45", va="top")
    axes.text(0.97, 0.03, "the head predicts too much", transform=axes.transAxes, color="0.45", ha="right")
    axes.set(xlabel="mean predicted dependency of the decile", ylabel="mean measured dependency")
    axes.set(title=f"Reliability on {sum(part['num_pairs'] for part in reliability):,} held-out pairs")
    save_figure(figure, file, dpi=150)
