"""Labels next to what they name, instead of a legend. Needs matplotlib (`pip install demask-hf[plots]`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from ..drawing import plain_text


# Possible places of a label relative to its point: direction and alignment of the text.
_DIRECTIONS = (
    ((1, 0), "left", "center"),
    ((-1, 0), "right", "center"),
    ((0, 1), "center", "bottom"),
    ((0, -1), "center", "top"),
    ((0.7, 0.7), "left", "bottom"),
    ((0.7, -0.7), "left", "top"),
    ((-0.7, 0.7), "right", "bottom"),
    ((-0.7, -0.7), "right", "top"),
)
_DISTANCES = (9, 18, 32, 50, 75, 110, 150)
_STEPS = np.linspace(0, 1, 16)[:, None]
# Distance from the point, the point, direction with alignment.
_Place: TypeAlias = tuple[int, tuple[float, float], tuple[tuple[float, float], str, str]]


@dataclass(frozen=True)
class Label:
    """A label and the line or points that it names.

    Args:
        text (`str`): Text of the label.
        points (`Sequence[tuple[float, float]]`): The points (x, y), in the order of their line; the label is placed
            next to one.
        color (`str`): Color of the text.
        size (`float`, *optional*, defaults to 9): Size of the text, in points.
        weight (`str`, *optional*, defaults to `"normal"`): Weight of the text.
        is_line (`bool`, *optional*, defaults to `True`): Whether a line joins the points.
    """

    text: str
    points: Sequence[tuple[float, float]]
    color: str
    size: float = 9
    weight: str = "normal"
    is_line: bool = True


def place_labels(axes: Axes, labels: Sequence[Label], avoided: Sequence[tuple[float, float]] = ()) -> None:
    """Write labels at places where they cover no other label and few points and lines, inside the axes.

    The labels are placed one by one, each at the best place next to its points; limits and scales of the axes must be
    final.

    Args:
        axes (`Axes`):
            Axes to write on.
        labels (`Sequence[Label]`):
            The labels, the most important first.
        avoided (`Sequence[tuple[float, float]]`, *optional*):
            Further points that no label should cover.
    """
    figure: Any = axes.figure
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    frame = axes.get_window_extent(canvas.get_renderer())
    covered = axes.transData.transform([*(point for label in labels for point in label.points), *avoided])
    lines = [_sampled(axes.transData.transform(label.points)) for label in labels if label.is_line]
    covered = np.concatenate([covered, *lines])
    taken: list[Bbox] = []
    for label in labels:
        text = axes.annotate(
            plain_text(label.text),
            label.points[0],
            xytext=(0, 0),
            textcoords="offset points",
            color=label.color,
            fontsize=label.size,
            fontweight=label.weight,
            arrowprops={"arrowstyle": "-", "color": label.color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
        )
        text.set_in_layout(False)
        costs: dict[_Place, float] = {}
        for distance in _DISTANCES:
            # From here on even a place that covers nothing is worse.
            if costs and min(costs.values()) <= distance / 10:
                break
            for place in product([distance], label.points, _DIRECTIONS):
                box = _moved(text, place, canvas)
                costs[place] = distance / 10 + _cost(box, frame, taken, covered)
        taken.append(_moved(text, min(costs, key=costs.__getitem__), canvas).padded(2))


def _moved(text: Annotation, place: _Place, canvas: FigureCanvasAgg) -> Bbox:
    """Move a label to a place and return its box, without the line to its point."""
    distance, point, ((right, up), horizontal, vertical) = place
    text.xy = point
    text.set_position((distance * right, distance * up))
    text.set(ha=horizontal, va=vertical)
    text.update_positions(canvas.get_renderer())
    return Text.get_window_extent(text, canvas.get_renderer())


def _sampled(points: np.ndarray) -> np.ndarray:
    """Return points along the lines that join the points, in pixels."""
    if len(points) < 2:
        return points
    pairs = zip(points[:-1], points[1:], strict=True)
    return np.concatenate([start + _STEPS * (end - start) for start, end in pairs])


def _cost(box: Bbox, frame: Bbox, taken: Sequence[Bbox], covered: np.ndarray) -> float:
    """Return the cost of a place: other labels and space outside the axes weigh most, then points and lines."""
    outside = box.width * box.height - _common(box, frame)
    overlap = sum(_common(box, other) for other in taken)
    inside = (covered > (box.x0 - 2, box.y0 - 2)) & (covered < (box.x1 + 2, box.y1 + 2))
    return 0.5 * (outside + overlap) + 3 * int(inside.all(axis=1).sum())


def _common(first: Bbox, second: Bbox) -> float:
    """Return the common area of two boxes, in square pixels."""
    both = Bbox.intersection(first, second)
    return 0.0 if both is None else both.width * both.height
