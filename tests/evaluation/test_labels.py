"""Labels stand beside their points and cover nothing."""

import pytest


pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from demask_hf.evaluation.labels import Label, place_labels


def _placed(labels, avoided=()):
    figure = Figure(figsize=(6, 4), dpi=100)
    axes = figure.add_subplot(xlim=(0, 10), ylim=(0, 10))
    place_labels(axes, labels, avoided)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    return axes, [Text.get_window_extent(text, renderer) for text in axes.texts]


def test_labels_of_points_that_lie_together_do_not_overlap():
    labels = [Label(f"number {number}", [(5 + number / 100, 5)], "black") for number in range(6)]
    axes, boxes = _placed(labels)
    assert [text.get_text() for text in axes.texts] == [label.text for label in labels]
    assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])


def test_labels_stay_within_the_axes():
    axes, boxes = _placed([Label("a long label", [(x, y)], "black") for x in (0.1, 9.9) for y in (0.1, 9.9)])
    frame = axes.get_window_extent()
    for box in boxes:
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert frame.y0 <= box.y0
        assert box.y1 <= frame.y1


def test_labels_leave_lines_and_points_free():
    line = [(1, 1), (9, 9)]
    avoided = [(5.5, 5), (6, 5), (6.5, 5)]
    axes, (box,) = _placed([Label("diagonal", line, "red")], avoided)
    inside = [box.contains(*axes.transData.transform(point)) for point in avoided]
    inside += [box.contains(*axes.transData.transform((place / 10, place / 10))) for place in range(10, 91)]
    assert not any(inside)
    assert axes.texts[0].xy in line
