"""Draw how the parts of a step and the time of a token grow, from what `speed.py share` and `speed.py scaling` wrote.

    python benchmarks/draw_speed.py docs/results/speed_{share,scaling}*.json --out docs/images/speed.png

Rows of batch 1 only.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from demask_hf.evaluation.labels import Label, place_labels


CACHES = {"none": "-", "prefix": "--", "dual": ":"}


def draw(rows: list[dict], out: Path) -> None:
    """Draw shares of rows with parts on the left, milliseconds a token of the others on the right."""
    shares, times = defaultdict(list), defaultdict(list)
    for row in (row for row in rows if row["batch"] == 1):
        if "head" in row:
            limit = f", {row['max_candidates']} candidates" if row["max_candidates"] else ""
            shares[row["shape"] + limit].append((row["length"], 100 * (row["head"] + row["selection"])))
            continue
        for cache in CACHES:
            times[row["shape"], cache].append((row["length"], row[f"ms/token, {cache}"]))
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(5, color="0.7", linewidth=1)
    labels = {left: [], right: []}
    for number, (name, points) in enumerate(sorted(shares.items())):
        left.plot(*zip(*sorted(points), strict=True), marker="o", color=f"C{number}")
        labels[left].append(Label(name, sorted(points)[::-1], f"C{number}"))
    left.set(xlabel="masked positions", ylabel="% of a step", title="Dependency head and selection")
    colors = {shape: f"C{index}" for index, shape in enumerate(sorted({shape for shape, _ in times}))}
    for (shape, cache), points in times.items():
        style = {"color": colors[shape], "linestyle": CACHES[cache], "marker": "o"}
        right.plot(*zip(*sorted(points), strict=True), **style)
        labels[right].append(Label(f"{shape}, {cache}", sorted(points)[::-1], colors[shape]))
    right.set(xlabel="answer length", ylabel="ms a token", title="Blocks of 32 with each cache")
    for axes, lines in ((left, shares), (right, times)):
        axes.set(xscale="log", yscale="log")
        lengths = sorted({length for points in lines.values() for length, _ in points})
        axes.set_xticks(lengths, labels=list(map(str, lengths)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(0.12)
        place_labels(axes, labels[axes])
    left.annotate("goal: 5 %", (0.02, 5), xycoords=left.get_yaxis_transform(), color="0.45", va="bottom", fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


def main(argv: list[str] | None = None) -> None:
    """Read the files and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    draw(
        [row for file in arguments.files for row in json.loads(file.read_text(encoding="utf-8"))["rows"]],
        arguments.out,
    )


if __name__ == "__main__":
    main()
