"""Figures of a comparison: what is drawn, from rows written by hand."""

from pathlib import Path

import pytest


pytest.importorskip("matplotlib")

from demask_hf import strategy_names
from demask_hf.evaluation import figures
from demask_hf.evaluation.archive import Archive
from demask_hf.evaluation.benchmark import markdown_table, text_table


RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture
def drawn(monkeypatch):
    """Return the figures that were saved."""
    saved = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, *args, **kwargs: saved.append(figure))
    return saved


def _row(row, label, passes, accuracy, is_default=False):
    difference = {"mean": 0.0, "lower": -0.01, "upper": 0.01}
    facts = {"row": row, "label": label, "mean_forward_passes": passes, "accuracy": accuracy}
    return {**facts, "difference": difference, "is_default": is_default}


ROWS = [
    _row("threshold", "threshold:confidence_threshold=0.9", 11, 0.99, True),
    _row("threshold", "threshold:confidence_threshold=0.8", 10, 0.98),
    _row("threshold", "threshold:factor=0.1", 12, 0.97),
    _row("demask:rule=token", "demask:dependency_bound=0.06,rule=token", 3, 0.99),
    _row("demask:rule=max", "demask:dependency_bound=0.1,rule=max", 3, 0.98),
    _row("klass", "klass:kl_threshold=0.1", 13, 0.96),
    _row("schedule", "schedule:max_denoising_steps=16", 16, 0.4),
]


def test_every_strategy_has_a_color_of_its_own():
    assert set(figures.RULE_COLORS) == set(strategy_names())
    assert len(set(figures.RULE_COLORS.values())) == len(figures.RULE_COLORS)
    assert figures.color_of("mine") not in figures.RULE_COLORS.values()


def test_lines_are_labelled_by_what_tells_them_apart(drawn):
    figures.frontier_figure(ROWS, "x.png")
    axes = drawn[0].axes[0]
    labels = {text.get_text(): text.get_color() for text in axes.texts}
    assert labels == {
        "threshold, confidence_threshold": figures.RULE_COLORS["threshold"],
        "threshold, factor": figures.RULE_COLORS["threshold"],
        "demask, rule=token": figures.RULE_COLORS["demask"],
        "demask, rule=max": figures.RULE_COLORS["demask"],
        "klass": figures.RULE_COLORS["klass"],
        "schedule: 40.0%": figures.RULE_COLORS["schedule"],
    }
    assert axes.get_legend() is None


def test_the_axis_shows_where_most_settings_lie_and_the_rest_at_its_edge(drawn):
    figures.frontier_figure(ROWS, "x.png")
    axes = drawn[0].axes[0]
    low, high = axes.get_ylim()
    assert 0.9 < low < 0.96
    assert 0.99 < high <= 1.01
    (below,) = (line for line in axes.lines if line.get_marker() == "v")
    assert below.get_xydata().tolist() == [[16, low]]


def test_settings_of_one_line_are_joined_and_defaults_ringed(drawn):
    figures.frontier_figure(ROWS, "x.png")
    lines = drawn[0].axes[0].lines
    joined = [line.get_xydata().tolist() for line in lines if len(line.get_xdata()) == 2]
    assert [[10, 0.98], [11, 0.99]] in joined
    rings = [line.get_xydata().tolist() for line in lines if line.get_markersize() == 12]
    assert rings == [[[11, 0.99]]]


def test_settings_that_are_alike_leave_nothing_below(drawn):
    figures.frontier_figure([_row("klass", "klass", 10, 0.5)], "x.png")
    low, high = drawn[0].axes[0].get_ylim()
    assert low < 0.5 < high


def test_all_rows_of_an_order_share_one_scale(drawn):
    steps = {"sequential": [0, 1, 2, 3], "demask": [0, 1, 0], "mine": [-1, 0]}
    tokens = {label: ["a", "Ġ", "<|endoftext|>", "d"][: len(own)] for label, own in steps.items()}
    figures.order_figure(tokens, steps, "x.png")
    axes = drawn[0].axes[0]
    (image,) = axes.images
    assert image.get_clim() == (0, 3)
    assert image.get_array()[1].tolist()[:3] == [0, 1, 0]
    # Shorter answers end earlier, and what the prompt gave has no step.
    assert image.get_array().mask.tolist()[1:] == [[False, False, False, True], [True, False, True, True]]
    texts = [text.get_text() for text in axes.texts]
    assert {"_", "<|en…", "4 steps", "2 steps", "1 steps"} <= set(texts)


@pytest.mark.parametrize("name", ["temperature_0", "temperature_1"])
def test_stored_results_can_be_tabulated_and_drawn(name, drawn):
    rows = Archive.read(RESULTS / "records" / f"{name}.json.xz").report().rows()
    assert len(markdown_table(rows).splitlines()) == 2 + len(rows)
    assert max(map(len, text_table(rows))) <= 100
    figures.frontier_figure(rows, "x.png")
    assert len(drawn) == 1


def test_dollar_signs_are_no_formulas(tmp_path):
    # A token of Dream's vocabulary; matplotlib reads an empty formula in it and fails.
    figures.order_figure({"mine:sign=$$,a=1": ["$$", "$a$", "$"]}, {"mine:sign=$$,a=1": [0, 1, 2]}, tmp_path / "o.png")
    rows = [_row("mine:sign=$$", f"mine:sign=$$,a={place}", place, 0.9) for place in (1, 2)]
    figures.frontier_figure(rows, tmp_path / "f.png", "From $$ to $$")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("o.png", "f.png"))


def test_dollar_signs_are_shown(drawn):
    figures.order_figure({"threshold": ["$$", "a"]}, {"threshold": [0, 1]}, "x.png")
    assert r"\$\$" in [text.get_text() for text in drawn[0].axes[0].texts]


def test_a_figure_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def full(figure, file, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures.Figure, "savefig", full)
    with pytest.raises(OSError, match=r"the disk is full: f\.png was not written to '.*'; what was complete is kept"):
        figures.frontier_figure(ROWS, tmp_path / "f.png")
