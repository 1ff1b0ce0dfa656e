"""`demask-hf demo`: the shipped checkpoint shows what the method is for."""

from pathlib import Path

import pytest

import demask_hf
from demask_hf.cli.main import main


needs_checkpoint = pytest.mark.skipif(
    not Path(demask_hf.TINY_DREAM, "config.json").exists() or not Path(demask_hf.TINY_DEMASK, "config.json").exists(),
    reason="needs the shipped checkpoint, which `make tiny` writes",
)


@needs_checkpoint
def test_demo_compares_strategies_and_shows_answers_step_by_step(capsys):
    assert main(["demo", "--num-examples", "2", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "temperature 0." in out
    assert out.count("forward passes]") == 3
    for row in ("pairs", "all of these", "parity (*)"):
        assert f"\n{row} " in out


@needs_checkpoint
def test_demo_needs_at_least_one_example(capsys):
    assert main(["demo", "--num-examples", "0"]) == 2
    assert "`--num-examples` must be an integer of at least 1, got 0." in capsys.readouterr().err
