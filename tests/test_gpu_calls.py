"""`make gpu`: its plumbing, on a CPU; what the calls measure needs a GPU."""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("gpu")


@pytest.fixture
def with_gpu(gpu, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "environment", lambda device: {"device": f"{device}: made up"})
    return gpu


def _script(code):
    """Return the words of a call that runs some code with the folder as its argument."""
    return lambda call, out: [sys.executable, "-c", code, str(out / f"{call.name}.json")]


WRITE = """
import json, sys
json.dump({"device": "cuda: made up", "rows": [{"length": 8, "ms/step": 1.234567}]}, open(sys.argv[1], "w"))
"""


def test_the_calls_are_listed_with_their_limits_without_a_gpu(gpu, tmp_path, capsys):
    assert gpu.main(["--out", str(tmp_path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [call.name for call in gpu.CALLS]
    assert all("at most 570 s" in line for line in lines)
    assert all(call.limit_seconds < 600 for call in gpu.CALLS)


def test_without_a_gpu_it_is_refused_in_one_sentence(gpu, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message == "gpu.py: error: this machine must have a GPU that torch can use, got none.\n"
    assert not (tmp_path / "out").exists()


def test_a_call_that_is_unknown_is_refused(gpu, tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path), "speed"])
    assert "NAME must be among tests, overhead, " in capsys.readouterr().err


def test_each_call_has_arguments_that_its_script_knows(gpu, tmp_path, monkeypatch):
    unknown = []

    def parsed(parser, arguments):
        unknown.extend(parser.parse_known_args(arguments)[1])
        raise InterruptedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    for call in gpu.CALLS[1:]:
        module = importlib.import_module(call.command.partition(".py")[0])
        with pytest.raises(InterruptedError):
            module.main(call.words(tmp_path)[2:])
    assert unknown == []


def test_results_become_rows_and_are_not_measured_twice(with_gpu, tmp_path, monkeypatch, capsys):
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{with_gpu.BEGIN}\nold\n{with_gpu.END}\nafter\n")
    monkeypatch.setattr(with_gpu.Call, "words", _script(WRITE))
    arguments = ["--out", str(tmp_path / "out"), "floor", "--document", str(document)]
    assert with_gpu.main(arguments) == 0
    written = (tmp_path / "out" / "rows.md").read_text()
    assert "**A step against its floor** (device cuda: made up)" in written
    assert "| 8 | 1.23 |" in written
    assert document.read_text() == f"before\n{with_gpu.BEGIN}\n\n{written.rstrip()}\n\n{with_gpu.END}\nafter\n"
    assert capsys.readouterr().out.splitlines() == ["floor: at most 570 s ...", "floor: done"]
    monkeypatch.setattr(with_gpu.Call, "words", _script("raise SystemExit(3)"))
    assert with_gpu.main(arguments) == 0
    assert capsys.readouterr().out == ""


def test_a_call_that_fails_or_takes_too_long_does_not_stop_the_others(with_gpu, tmp_path, monkeypatch, capsys):
    call = with_gpu.Call("slow", "", "x.py", limit_seconds=1)
    code = f"import sys, time\nif 'slow' in sys.argv[1]: time.sleep(60)\nif 'bad' in sys.argv[1]: sys.exit(3)\n{WRITE}"
    monkeypatch.setattr(with_gpu, "CALLS", (call, with_gpu.Call("bad", "", "x.py"), with_gpu.Call("good", "", "x.py")))
    monkeypatch.setattr(with_gpu.Call, "words", _script(code))
    assert with_gpu.main(["--out", str(tmp_path)]) == 1
    states = capsys.readouterr().out.splitlines()[1::2]
    assert states[0] == f"slow: took more than 1 s, see {tmp_path / 'slow.log'}"
    assert states[1] == f"bad: ended with exit code 3, see {tmp_path / 'bad.log'}"
    assert states[2] == "good: done"


def test_verdicts_of_tests_become_rows(with_gpu, tmp_path, monkeypatch):
    xml = '<testsuite><testcase name="a"/><testcase name="b"><skipped/></testcase></testsuite>'
    call = with_gpu.CALLS[0]
    code = f"import sys, pathlib; pathlib.Path(sys.argv[1]).with_suffix('.xml').write_text({xml!r})"
    monkeypatch.setattr(with_gpu.Call, "words", _script(code))
    assert with_gpu.run_call(call, tmp_path) == "done"
    found = json.loads((tmp_path / "tests.json").read_text())
    assert found["rows"] == [{"test": "a", "verdict": "passed"}, {"test": "b", "verdict": "skipped"}]


def test_a_document_without_marks_is_refused(gpu, tmp_path):
    (tmp_path / "x.md").write_text("none\n")
    with pytest.raises(ValueError, match="`--document` must have the lines <!-- rows of make gpu -->"):
        gpu.insert(tmp_path / "x.md", [])


def test_memory_is_measured(gpu, tmp_path, monkeypatch):
    memory = importlib.import_module("memory")
    (row,) = memory.main(["--shapes", "2m", "--lengths", "8", "--out", str(tmp_path / "x.json")])
    assert json.loads((tmp_path / "x.json").read_text())["rows"] == [row]
    assert row["weights GB"] == pytest.approx(2 * 1.9e6 / 1e9, rel=0.5)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match="`torchao` must be installed for int8 weights"):
        memory.main(["--shapes", "2m", "--formats", "int8"])


def test_requests_of_clients_are_timed(gpu, tmp_path):
    serving = importlib.import_module("serving")
    arguments = ["--clients", "2", "--requests", "4", "--rows", "2", "--out", str(tmp_path / "x.json")]
    rows = serving.main(arguments)
    assert json.loads((tmp_path / "x.json").read_text())["rows"] == rows
    assert [(row["clients"], row["rows"]) for row in rows] == [(2, 1), (2, 2)]


def test_make_passes_its_arguments_on():
    make = subprocess.run(
        ["make", "-n", "gpu", "OUT=x/y", "GPU=--dry-run"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    # Within another make, it also says which folder it is in.
    assert ".venv/bin/python benchmarks/gpu.py --out x/y --dry-run" in make.stdout.splitlines()
