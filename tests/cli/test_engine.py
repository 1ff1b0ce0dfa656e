"""`--engine` and `--workers`: what is refused before anything is loaded; tests/test_ray.py does the work."""

import sys

import pytest

from demask_hf.cli.engines import EngineOptions
from demask_hf.cli.main import main


def _refusal(capsys, *arguments):
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def test_workers_are_those_of_ray(capsys):
    message = _refusal(capsys, "generate", "w3", "--workers", "2")
    assert message.startswith("demask-hf: error: `--workers` must be used with --engine ray, got 2 with local.")
    assert "`--workers` must be an integer of at least 1, got 0" in _refusal(
        capsys, "generate", "w3", "--engine", "ray", "--workers", "0"
    )


def test_ray_is_started_by_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match="`--engine` must be local in a launch of several processes, got ray in one of 2"
    ):
        EngineOptions("ray").check()


@pytest.mark.parametrize("option", [("--stream",), ("--compare", "threshold")])
def test_ray_shows_no_drafts_and_compares_nothing(capsys, option):
    message = _refusal(capsys, "generate", "w3", *option, "--engine", "ray")
    assert message.startswith("demask-hf: error: `--engine` must be local with --stream or --compare, got ray.")


def test_a_missing_ray_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "demask_hf.ray", raising=False)
    message = _refusal(capsys, "generate", "w3", "--engine", "ray")
    assert "`ray` must be installed to share work among machines: pip install demask-hf[ray]." in message
