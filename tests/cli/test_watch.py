"""`demask-hf watch`: the page or the trace that it writes, and what it says about bad input."""

import io
import json
import re
import sys
from pathlib import Path

import pytest

import demask_hf
from demask_hf.cli.main import main


needs_checkpoint = pytest.mark.skipif(
    not Path(demask_hf.TINY_DREAM, "config.json").exists() or not Path(demask_hf.TINY_DEMASK, "config.json").exists(),
    reason="needs the shipped checkpoint, which `make tiny` writes",
)


@pytest.fixture
def watch(folders, capsys, monkeypatch, tmp_path):
    """Return a function that runs `demask-hf watch` with the tiny model: its exit code, output and messages."""

    def run(*arguments: str):
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        monkeypatch.chdir(tmp_path)
        paths = [part for option in folders.items() for part in option]
        code = main(["watch", *arguments, *paths, "--device", "cpu"])
        return code, *capsys.readouterr()

    return run


def _traces(file):
    data = re.search(r'<script type="application/json" id="traces">(.*?)</script>', file.read_text(encoding="utf-8"))
    return json.loads(data[1])


def test_a_page_shows_the_default_strategy(watch, tmp_path):
    code, out, _ = watch("w3 w4")
    (trace,) = _traces(tmp_path / "decoding.html")
    passes = trace["final"]["totalForwardPasses"]
    assert (code, out) == (0, f"demask: {passes} forward passes\nwritten: decoding.html\n")
    assert trace["generation"]["algorithm"] == "demask"
    assert trace["prompt"]["text"] == "w3 w4"
    assert trace["model"]["name"].endswith("model0")


def test_several_strategies_stand_side_by_side(watch, tmp_path):
    specs = ("threshold:confidence_threshold=0.5", "sequential")
    code, out, _ = watch("w3 w4", "--out", "page.html", "--compare", *specs)
    traces = _traces(tmp_path / "page.html")
    assert code == 0
    assert [trace["generation"]["title"] for trace in traces] == list(specs)
    assert traces[0]["generation"]["strategy"]["confidence_threshold"] == 0.5
    assert [line.split(": ")[0] for line in out.splitlines()[:-1]] == [
        "threshold:confidence_threshold=0.5",
        *specs[1:],
    ]


def test_the_trace_of_one_strategy_is_json(watch, tmp_path):
    assert watch("w3 w4", "--out", "trace.json", "--strategy", "sequential")[0] == 0
    trace = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    assert trace["schemaVersion"] == "0.1"
    assert [frame["kind"] for frame in trace["frames"]] == ["initial", *["denoise"] * 8, "final"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a prompt must be given"),
        (["w3", "w4"], "`prompt` must be a single one to watch, got 2."),
        (["w3", "--out", "page.pdf"], "`--out` must end with .html or .json, got 'page.pdf'."),
        (["w3", "--out", ""], "`--out` must end with .html or .json, got ''."),
        (
            ["w3", "--out", "trace.json", "--compare", "threshold", "sequential"],
            "`--out` must be a page (.html) for 2 strategies, got 'trace.json'.",
        ),
        (["w3", "--out", "missing/page.html"], "`--out` must lie in a folder that exists, got 'missing/page.html'."),
        (["w3", "--compare", "treshold"], "must be a registered name, got 'treshold'; nearest: threshold."),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(watch, tmp_path, arguments, message):
    code, out, err = watch(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("demask-hf: error: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


@needs_checkpoint
def test_the_shipped_checkpoint_is_the_default(capsys, tmp_path):
    arguments = ["copy: DACBE FGAHJ TRNPM KLBCA -> ", "--device", "cpu", "--out", str(tmp_path / "trace.json")]
    assert main(["watch", *arguments]) == 0
    trace = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    assert trace["final"]["text"] == "DACBE FGAHJ TRNPM KLBCA"
    assert trace["model"] == {"name": "demask_hf.TINY_DREAM"}
