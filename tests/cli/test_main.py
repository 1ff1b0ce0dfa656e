"""The command line as a whole: exit codes, help, and errors in one line."""

import os
import subprocess
import sys

import pytest

import demask_hf
from demask_hf.cli.main import main


def test_a_command_is_required(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_unexpected_errors_keep_their_traceback(monkeypatch):
    def fail(options):
        raise ZeroDivisionError

    monkeypatch.setattr("demask_hf.cli.strategies.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["strategies"])


def test_interruption_exits_with_130(monkeypatch):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("demask_hf.cli.strategies.run", interrupt)
    assert main(["strategies"]) == 130


def test_interruption_says_how_to_resume(capsys, monkeypatch):
    def interrupt(*options):
        raise KeyboardInterrupt

    monkeypatch.setattr("demask_hf.cli.collect.run", interrupt)
    assert main(["collect", "--data", "x", "--out", "y"]) == 130
    assert capsys.readouterr().err == (
        "\ndemask-hf: interrupted. To resume an interrupted collection, run the same command again: files of states "
        "that are complete are kept.\n"
    )


def test_errors_of_a_command_name_its_help(capsys, monkeypatch):
    def fail(options):
        raise ValueError("`x` must be y, got z.\nAnd more.")

    monkeypatch.setattr("demask_hf.cli.strategies.run", fail)
    assert main(["strategies"]) == 2
    assert capsys.readouterr().err == "demask-hf: error: `x` must be y, got z. (see demask-hf strategies --help)\n"


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["--version"]])
def test_help_and_version_exit_with_0(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    assert "demask-hf" in capsys.readouterr().out


def test_the_module_is_the_command():
    result = subprocess.run([sys.executable, "-m", "demask_hf", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, f"demask-hf {demask_hf.__version__}\n")


@pytest.mark.skipif(os.name != "posix", reason="needs pipes of a posix system")
def test_a_reader_that_leaves_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "demask_hf", "strategies"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


def test_a_missing_package_of_an_extra_is_named_with_it(capsys, monkeypatch):
    def fail(name, package):
        raise ModuleNotFoundError("No module named 'scipy.stats'", name="scipy.stats")

    monkeypatch.setattr(sys.modules["demask_hf.cli.main"], "import_module", fail)
    assert main(["verify"]) == 2
    expected = "`scipy` must be installed for demask-hf verify: pip install demask-hf[eval]."
    assert capsys.readouterr().err == f"demask-hf: error: {expected}\n"


def test_only_the_file_of_the_command_is_imported():
    script = "import sys, demask_hf.cli as cli; cli.main(['strategies']); print(*sorted(sys.modules), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported = {name for name in result.stderr.split() if name.startswith("demask_hf.cli.")}
    assert imported == {f"demask_hf.cli.{name}" for name in ("documented", "limits", "main", "parser", "strategies")}
