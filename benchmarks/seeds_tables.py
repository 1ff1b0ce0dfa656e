"""The tables and the figure of docs/results.md on several training runs, from the records of `training_seeds.py`.

python benchmarks/seeds_tables.py docs/images
"""

import json
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from demask_hf.evaluation.archive import Archive
from demask_hf.evaluation.figures import color_of
from demask_hf.tables import Column, markdown_lines


RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
REFERENCE = "sequential"
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Effect:
    """A mean over training runs and prompts, and what it depends on.

    Args:
        mean (`float`): The mean.
        lower (`float`): Lower end of its interval for other backbones and other prompts.
        upper (`float`): Upper end.
        sd_backbones (`float`): Standard deviation of the means of the backbones, each over its heads.
        sd_heads (`float`): Standard deviation between heads of one backbone.
    """

    mean: float
    lower: float
    upper: float
    sd_backbones: float
    sd_heads: float


def effect_of(values: np.ndarray) -> Effect:
    """Return the mean of scores with its interval for other backbones and other prompts.

    Its variance is at most the sum of two: that of the means of the backbones by their number, and that of the means
    of the prompts by theirs; each holds what heads and single draws add. The quantile is Student's, with the degrees
    of freedom of Welch and Satterthwaite (Biometrics Bulletin 2, 1946); with three backbones there are about two where
    backbones differ more than prompts.

    Args:
        values (`np.ndarray` of shape `(backbones, heads, prompts)`): Scores, of at least two of each.

    Returns:
        [`Effect`]; both ends are NaN if nothing differs.
    """
    from scipy.stats import t

    by_backbone, by_prompt = values.mean(axis=(1, 2)), values.mean(axis=(0, 1))
    parts = np.array([found.var(ddof=1) / len(found) for found in (by_backbone, by_prompt)])
    degrees = np.array([len(by_backbone), len(by_prompt)]) - 1
    mean, half = float(values.mean()), float("nan")
    if parts.any():
        quantile = t.ppf((1 + _CONFIDENCE) / 2, parts.sum() ** 2 / (parts**2 / degrees).sum())
        half = float(quantile * parts.sum() ** 0.5)
    sd_heads = values.mean(axis=2).var(axis=1, ddof=1).mean() ** 0.5
    return Effect(mean, mean - half, mean + half, float(by_backbone.std(ddof=1)), float(sd_heads))


@cache
def _archive(name: str) -> Archive:
    return Archive.read(RESULTS / "records" / f"{name}.json.xz")


def _scores(name: str) -> dict[str, dict[str, np.ndarray]]:
    """Return right answers and passes of each setting, each of shape `(backbones, heads, prompts)`."""
    archive = _archive(name)
    runs = sorted({run for run, _ in archive.outcomes})
    num_backbones = len({re.match(r"backbone \d+", run)[0] for run in runs})  # type: ignore[index]
    found = {}
    for setting in archive.grid[0]:
        own = [archive.outcomes[run, setting.key] for run in runs]
        found[setting.label] = {
            kind: np.array([getattr(outcome, kind)[:, 0] for outcome in own], dtype=float).reshape(
                num_backbones, len(runs) // num_backbones, -1
            )
            for kind in ("is_correct", "num_forward_passes")
        }
    return found


def effects_table(name: str) -> list[str]:
    """Return what each setting reaches over all training runs, and how much it depends on them."""
    scores = _scores(name)
    rows = []
    for label, own in scores.items():
        difference = own["is_correct"] - scores[REFERENCE]["is_correct"]
        lost = None if label == REFERENCE else effect_of(difference)
        rows.append({"label": label, "lost": lost, "passes": effect_of(own["num_forward_passes"]), **own})

    def right(row: Any) -> str:
        means = row["is_correct"].mean(axis=2)
        return f"{means.min():.1%} to {means.max():.1%}"

    def sd(of: str, kind: str, scale: int) -> Column:
        def cell(row: Any) -> str | None:
            reads_no_head = kind == "heads" and not row["label"].startswith("demask")
            return None if row[of] is None or reads_no_head else f"{scale * getattr(row[of], f'sd_{kind}'):.2f}"

        return Column(f"sd of {kind}", cell)

    def points(row: Any) -> str:
        if row["lost"] is None:
            return "reference"
        found = row["lost"]
        return f"{100 * found.mean:+.2f} ({100 * found.lower:+.2f} to {100 * found.upper:+.2f})"

    def passes(row: Any) -> str:
        return "{0.mean:.2f} ({0.lower:.2f} to {0.upper:.2f})".format(row["passes"])

    columns = [
        Column("setting", lambda row: f"`{row['label']}`", is_text=True),
        Column("right, each run", right),
        Column("points against one at a time (95 %)", points),
        sd("lost", "backbones", 100),
        sd("lost", "heads", 100),
        Column("forward passes (95 %)", passes),
        sd("passes", "backbones", 1),
        sd("passes", "heads", 1),
    ]
    return markdown_lines(columns, rows)


def runs_table(name: str) -> list[str]:
    """Return each training run: the fit of the head, and what it decodes."""
    fits = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["fits"]
    archive = _archive(name)

    def column(setting: Any) -> Column:
        def cell(row: Any) -> str:
            outcome = archive.outcomes[row["run"], setting.key]
            return f"{outcome.accuracy:.1%}, {outcome.mean_forward_passes:.2f}"

        return Column(f"`{setting.label}`", cell)

    columns = [Column("run", "run", is_text=True), Column("head: R^2", "r2", ".3f"), Column("head: AUC", "auc", ".4f")]
    columns += [column(setting) for setting in archive.grid[0]]
    return markdown_lines(columns, [{"run": run, **fit} for run, fit in fits.items()])


TABLES = {"effects": effects_table, "runs": runs_table}


def draw(file: Path, name: str) -> None:
    """Draw points lost against passes, a mark for each training run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    scores = _scores(name)
    reference = scores.pop(REFERENCE)["is_correct"]
    for label, own in scores.items():
        points = 100 * (own["is_correct"] - reference).mean(axis=2)
        passes = own["num_forward_passes"].mean(axis=2)
        marker = "s" if "influence" in label else "o"
        # What reads no head is the same for all heads of a backbone.
        shown = slice(None) if label.startswith("demask") else slice(1)
        color = color_of(label.partition(":")[0])
        axes.plot(passes[:, shown].ravel(), points[:, shown].ravel(), marker, color=color, label=label, alpha=0.7)
    axes.axhline(0, color="0.7", linewidth=1)
    axes.set(xlabel="forward passes", ylabel="points against one token at a time, same backbone")
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) / "training_seeds.png", "training_seeds")
