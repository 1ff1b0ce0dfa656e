"""The scripts that draw the pictures of the documentation."""

import json
from pathlib import Path

import pytest

from demask_hf.evaluation.archive import Archive


pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[1]


def test_the_picture_of_the_readme_is_drawn_by_the_viewer(benchmark, browser, tmp_path, capsys, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    script = benchmark("draw_decoding")
    monkeypatch.setattr(script, "ROWS", {"demask": {"name": "demask"}})
    script.main(["--out", str(tmp_path)])
    assert (tmp_path / "decoding.gif").stat().st_size < 100_000
    passes = int(capsys.readouterr().out.split(", ")[-1].split()[0])
    with image.open(tmp_path / "decoding.gif") as found:
        assert found.n_frames == passes + 2 < 8


def test_frontier_and_order_are_drawn_from_stored_records(benchmark, tmp_path, monkeypatch):
    archive = ROOT / "docs" / "results" / "records" / "temperature_0.json.xz"
    script = benchmark("draw_results")
    drawn = []
    monkeypatch.setattr(script, "frontier_figure", lambda *arguments: drawn.append(arguments))
    monkeypatch.setattr(script, "order_figure", lambda *arguments: drawn.append(arguments))
    for figure in ("frontier", "order"):
        script.main([figure, str(archive), "--title", "x", "--out", str(tmp_path / "x.png")])
    (rows, _, title), (tokens, steps, _) = drawn
    settings = Archive.read(archive)
    assert [row["label"] for row in rows] == [setting.label for row in settings.grid for setting in row]
    assert title == "x"
    assert list(steps) == [one.outcome.setting.label for one in settings.report().chosen]
    assert all(len(tokens[label]) == len(steps[label]) for label in steps)


def test_the_bound_is_drawn_from_the_measured_sets(benchmark, tmp_path):
    one = {"value": 0.1, "lower": 0.1, "upper": 0.1}
    measured = {"positions": [1, 2], "is_exact": True, "total_variation": one, "terms": [one], "costs": [0.2]}
    states = [{"selected": {**measured, "head_costs": [0.3], "orders": []}, "random": None}]
    (tmp_path / "found.json").write_text(json.dumps({"states": states}), encoding="utf-8")
    benchmark("draw_results").main(["bound", str(tmp_path / "found.json"), "--out", str(tmp_path)])
    assert (tmp_path / "bound.png").is_file()
    assert (tmp_path / "tightness.png").is_file()
