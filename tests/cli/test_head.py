"""`demask-hf head`: one command from a bare backbone to an exported head, which resumes at every stage."""

import json

import pytest

from demask_hf import DemaskHead
from demask_hf.cli.main import main


SMALL = ("--num-states", 24, "--steps", 2, "--num-verified", 3, "--num-calibrated", 3, "--device", "cpu")


@pytest.fixture
def data(tmp_path):
    """Return a file of prompts with answers."""
    file = tmp_path / "data.jsonl"
    rows = [{"prompt": f"w{number}", "answer": f"w{number + 1} w5"} for number in range(3, 18)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_dry_run_estimates_and_prints_the_commands(run, files, data, tmp_path):
    command = ("head", files / "model", "--data", data, "--out", tmp_path / "out", *SMALL, "--dry-run")
    code, out, err = run(*command)
    assert code == 0, err
    assert "prompts: 9 to train, 3 to verify, 3 to calibrate" in out
    assert "24 states of 6 tokens" in out
    assert [line.split()[0] for line in out.splitlines() if "demask-hf" in line] == [
        "collect",
        "train",
        "verify",
        "calibrate",
        "export",
    ]
    assert not (tmp_path / "out" / "states").exists()
    # The estimate is kept, so that the same states are measured after an interruption.
    before = (tmp_path / "out" / "estimate.json").read_text()
    assert run(*command)[0] == 0
    assert (tmp_path / "out" / "estimate.json").read_text() == before


def test_one_command_makes_a_head_and_resumes(run, files, data, tmp_path):
    out_folder = tmp_path / "out"
    command = ("head", files / "model", "--data", data, "--out", out_folder, *SMALL)
    code, _, err = run(*command)
    assert code == 0, err
    assert DemaskHead.from_pretrained(out_folder / "exported").config.backbone_hidden_size == 32
    assert (out_folder / "exported" / "README.md").exists()
    # Three prompts certify nothing, and that is said, and no certificate is made up.
    stages = json.loads((out_folder / "stages.json").read_text())
    assert stages["calibrate"]["outcome"].startswith("nothing to claim: no bound can be certified")
    assert DemaskHead.from_pretrained(out_folder / "exported").config.certificate is None
    # A stage that is lost is made again, and no other.
    del stages["export"]
    (out_folder / "stages.json").write_text(json.dumps(stages))
    code, out, err = run(*command)
    assert code == 0, err
    assert "stage 1 of 5, collect: complete, kept (done)" in out
    assert "stage 5 of 5, export: done" in out
    code, _, err = run(*command[:-2], "--device", "cpu", "--temperature", 0.5)
    assert code == 2
    assert "`out` must be a new folder or one of the same head" in err
    assert "temperature 1.0 instead of 0.5" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none.jsonl", "--recipe", "slow"], "`recipe` must be one of quick, paper, got 'slow'."),
        (["--data", "none.jsonl", "--push", "name"], "`push` must be of the form organisation/name, got 'name'."),
        ([], "`--data` must be given for the recipe 'quick', which names no dataset."),
        (["--data", "none.jsonl"], "`data` must be a file, a folder or a dataset of the Hub, got 'none.jsonl'"),
        (["--data", "DATA"], "`data` must hold at least 424 different prompts, of which 12 verify and 200 calibrate"),
        (["--data", "DATA", "--model", "x"], "`MODEL` must be given alone, got --model or --head with it."),
        (["--data", "DATA", "--steps", "0"], "`--steps` must be an integer of at least 1, got 0."),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(capsys, data, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [str(data) if argument == "DATA" else argument for argument in arguments]
    assert main(["head", "no-model", "--out", "out", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"demask-hf: error: {message}")
    assert len(err.splitlines()) == 1
