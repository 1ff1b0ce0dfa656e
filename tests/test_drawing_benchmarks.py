"""The scripts that draw the pictures of the documentation."""

import importlib
import json
from pathlib import Path

import pytest


pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_the_picture_of_the_readme_is_drawn(benchmark, tmp_path, capsys):
    benchmark("draw_decoding").main(["--out", str(tmp_path)])
    assert (tmp_path / "decoding.gif").stat().st_size < 400_000
    assert (tmp_path / "decoding.png").is_file()
    passes = [int(line.split(", ")[-1].split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert passes == sorted(passes, reverse=True)
    assert passes[0] > 4 * passes[-1]


def test_the_frontier_is_drawn_from_the_stored_summaries(benchmark, tmp_path):
    files = [str(ROOT / "docs" / "results" / f"temperature_0{part}.json") for part in ("", "_more")]
    benchmark("draw_results").main(["frontier", *files, "--out", str(tmp_path / "frontier.png")])
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_an_order_has_a_row_for_each_chosen_and_each_default_setting(benchmark, tmp_path, monkeypatch):
    rows = [
        {"label": "threshold", "is_chosen": True, "is_default": True},
        {"label": "threshold:confidence_threshold=0.8", "is_chosen": False, "is_default": False},
    ]
    more = [{"label": "demask:dependency_bound=0.06", "is_chosen": True, "is_default": True}]
    for name, part in (("first", rows), ("second", more)):
        (tmp_path / name).write_text(json.dumps({"rows": part}), encoding="utf-8")
    drawn = []
    script = benchmark("draw_results")
    monkeypatch.setattr(script, "order_figure", lambda *arguments: drawn.append(arguments))
    script.main(["order", str(tmp_path / "first"), str(tmp_path / "second"), "--out", str(tmp_path / "x.png")])
    ((tokens, steps, _),) = drawn
    assert list(steps) == ["threshold", "demask:dependency_bound=0.06"]
    assert all(len(tokens[label]) == len(steps[label]) for label in steps)


def test_the_bound_is_drawn_from_the_measured_sets(benchmark, tmp_path):
    one = {"value": 0.1, "lower": 0.1, "upper": 0.1}
    measured = {"positions": [1, 2], "is_exact": True, "total_variation": one, "terms": [one], "costs": [0.2]}
    states = [{"selected": {**measured, "head_costs": [0.3], "orders": []}, "random": None}]
    (tmp_path / "found.json").write_text(json.dumps({"states": states}), encoding="utf-8")
    benchmark("draw_results").main(["bound", str(tmp_path / "found.json"), "--out", str(tmp_path)])
    assert (tmp_path / "bound.png").is_file()
    assert (tmp_path / "tightness.png").is_file()
