"""What docs/dream7b.md says a head costs is what benchmarks/cost.py computes, from sizes that are right."""

import importlib
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


@pytest.fixture
def cost(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("cost")


def test_the_tables_of_the_page_are_those_of_the_script(cost):
    page = cost.PAGE.read_text(encoding="utf-8")
    assert page.partition(cost.BEGIN)[2].partition(cost.END)[0].strip() == cost.main([]).strip()


def test_writing_changes_the_tables_only(cost, monkeypatch, tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(cost.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(cost, "PAGE", copy)
    cost.main(["--num-states", "20000", "--write"])
    assert "20,000 states" in copy.read_text(encoding="utf-8")
    cost.main(["--write"])
    assert copy.read_text(encoding="utf-8") == (ROOT / "docs" / "dream7b.md").read_text(encoding="utf-8")


def test_operations_are_counted_as_where_they_were_measured(cost):
    for row in cost._rows("gpu_speed_floor"):
        tokens = 32 + row["length"]
        assert row["batch"] * cost.DREAM.forward_gflop(tokens, row["length"]) == pytest.approx(row["GFLOP"], rel=1e-6)


def test_weights_are_those_of_the_checkpoints(cost):
    # Bytes in the index files of both checkpoints, in bfloat16; norms and biases are left out here.
    assert 2 * cost.DREAM.weights == pytest.approx(15_231_233_024, rel=1e-3)
    assert 2 * cost.LLADA.weights == pytest.approx(16_031_162_368, rel=1e-3)
