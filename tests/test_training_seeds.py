"""What several training runs say together."""

from pathlib import Path

import numpy as np
import pytest


pytest.importorskip("scipy")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def effect_of(benchmark):
    return benchmark("seeds_tables").effect_of


def test_the_interval_is_of_the_backbones_where_prompts_do_not_differ(effect_of):
    # Means of the backbones 1, 2 and 3: sd 1, and Student's quantile of two degrees of freedom, 4.303.
    values = np.array([[[1.0, 1.0]] * 2, [[2.0, 2.0]] * 2, [[3.0, 3.0]] * 2])
    found = effect_of(values)
    assert (found.mean, found.sd_backbones, found.sd_heads) == (2.0, 1.0, 0.0)
    assert found.upper - found.mean == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert found.mean - found.lower == pytest.approx(found.upper - found.mean)


def test_the_interval_is_of_the_prompts_where_runs_do_not_differ(effect_of):
    prompts = np.arange(5.0)
    found = effect_of(np.broadcast_to(prompts, (3, 2, 5)))
    assert (found.sd_backbones, found.sd_heads) == (0.0, 0.0)
    # Student's quantile of four degrees of freedom, 2.776.
    assert found.upper - found.mean == pytest.approx(2.7764 * (prompts.var(ddof=1) / 5) ** 0.5, abs=1e-3)


def test_heads_of_a_backbone_are_compared_with_each_other_only(effect_of):
    values = np.array([[[0.0, 0.0], [2.0, 2.0]], [[10.0, 10.0], [12.0, 12.0]]])
    found = effect_of(values)
    assert found.sd_heads == pytest.approx(2**0.5)
    assert found.sd_backbones == pytest.approx(50**0.5)


def test_no_interval_is_made_of_nothing(effect_of):
    found = effect_of(np.zeros((3, 2, 4)))
    assert found.mean == 0
    assert np.isnan([found.lower, found.upper]).all()


def test_a_run_goes_on_where_it_was_and_writes_what_the_tables_read(benchmark, tmp_path, monkeypatch):
    study, tables = benchmark("training_seeds"), benchmark("seeds_tables")
    load = study.load_head
    # No head is trained here: both are the shipped one.
    monkeypatch.setattr(study, "load_head", lambda model, tokenizer, *_: load(model, tokenizer, 0, 0, tmp_path))
    arguments = [
        "--backbones",
        "0",
        "--num-prompts",
        "1",
        "--work",
        str(tmp_path / "work"),
        "--out",
        str(tmp_path / "out"),
    ]
    study.main(arguments)
    monkeypatch.setattr(study, "evaluate", None)
    study.main(arguments)
    with pytest.raises(ValueError, match="num_prompts 1 instead of 2"):
        study.main([*arguments, "--num-prompts", "2"])
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "out")
    tables._archive.cache_clear()
    head, _, *runs = tables.runs_table("training_seeds")
    tables._archive.cache_clear()
    assert [run.split(" | ")[0] for run in runs] == ["| backbone 0, head 0", "| backbone 0, head 1"]
    assert "`demask:order=influence`" in head
