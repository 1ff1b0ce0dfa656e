"""`demask-hf strategies`: the list agrees with the registry."""

import json

import demask_hf
from demask_hf.cli.main import main


def test_strategies_lists_fields_and_defaults(capsys):
    assert main(["strategies"]) == 0
    out = capsys.readouterr().out
    assert "threshold\n    Unmask the most confident position" in out
    assert "    confidence_threshold = 0.9\n" in out


def test_strategies_as_json_agrees_with_the_registry(capsys):
    assert main(["strategies", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {found["name"]: found["fields"] for found in listed} == {
        name: demask_hf.strategy_fields(name) for name in demask_hf.strategy_names()
    }
    assert all(found["description"].endswith(".") for found in listed)
