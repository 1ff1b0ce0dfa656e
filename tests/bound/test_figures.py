"""Figures are drawn from what was measured, with and without a head."""

import pytest
import torch

from demask_hf.bound.measurement import SetMeasurement
from demask_hf.evaluation.statistics import Interval


figures = pytest.importorskip("demask_hf.bound.figures", exc_type=ImportError)


@pytest.fixture
def drawn(monkeypatch):
    """Return the figures that were saved."""
    saved = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, *args, **kwargs: saved.append(figure))
    return saved


def _set(error, costs, head_costs=None):
    return SetMeasurement((0, 1), True, Interval(error, error, error), (), costs, head_costs)


def test_every_set_is_a_point(drawn):
    selected = [_set(0.1, (0.2,), (0.3,)), _set(0.2, (0.4,), (0.1,))]
    figures.bound_figure({"selected": selected, "random": [_set(0.5, (0.6,), (0.7,))]}, "x.png")
    exact, head = drawn[0].axes
    assert [points.get_offsets().tolist() for points in exact.collections] == [[[0.6, 0.5]], [[0.2, 0.1], [0.4, 0.2]]]
    assert head.collections[1].get_offsets().tolist() == [[0.3, 0.1], [0.1, 0.2]]


def test_without_a_head_its_panel_is_empty(drawn, tmp_path):
    figures.bound_figure({"selected": [_set(0.1, (0.2,))], "random": []}, tmp_path / "x.png")
    assert [len(axes.collections) for axes in drawn[0].axes] == [1, 0]


def test_the_histogram_counts_every_set(drawn):
    figures.tightness_figure({"selected": [0.6, 1.0, 2.0], "random": [1.5]}, "x.png")
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["selected (3 sets)", "random (1 sets)"]


@pytest.mark.parametrize("has_head", [True, False])
def test_heat_maps_have_tokens_as_labels(drawn, has_head):
    exact = torch.tensor([[0.0, 0.5], [0.25, 0.0]])
    figures.dependency_figure(["a", "b"], {"measured": exact} | ({"head": exact * 0.5} if has_head else {}), "x.png")
    maps = [axes for axes in drawn[0].axes if axes.images]
    assert [axes.get_title() for axes in maps] == (["measured", "head"] if has_head else ["measured"])
    assert maps[0].images[0].get_array().tolist() == exact.tolist()
    assert [label.get_text() for label in maps[0].get_xticklabels()] == ["a", "b"]
    assert (maps[0].get_xlabel(), maps[0].get_ylabel()) == ("target", "source")


def test_the_repeated_end_of_an_answer_is_shown_once(drawn):
    matrix = torch.zeros(6, 6)
    matrix[0, 1] = matrix[3, 0] = 0.5
    figures.dependency_figure(["a", "b", "<|end|>", *["<|end|>"] * 3], {"measured": matrix}, "x.png")
    (axes,) = (axes for axes in drawn[0].axes if axes.images)
    # The fourth position repeats the label of the third, but something depends on it.
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "<|en…", "<|en…"]


def test_figures_are_files(tmp_path):
    figures.tightness_figure({"selected": [1.0]}, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_dollar_signs_are_no_formulas(tmp_path):
    figures.dependency_figure(["$$", "$a$"], {"$$": torch.zeros(2, 2)}, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
