"""The console script: what it answers without importing torch, and what it hands on."""

import subprocess
import sys
from pathlib import Path

import pytest

import demask_hf
from demask_hf_command import COMMANDS, read_command


# Runs the console script as an installed one would, and says whether it imported torch.
SCRIPT = """
import sys
from types import SimpleNamespace

import demask_hf_command

demask_hf_command.metadata = SimpleNamespace(version=lambda name: "1.2.3")
sys.argv = ["demask-hf", *sys.argv[1:]]
try:
    code = demask_hf_command.main()
except SystemExit as stopped:
    code = stopped.code
print("torch" in sys.modules, code)
"""


def _run(*arguments):
    result = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    *lines, facts = result.stdout.splitlines()
    return lines, facts, result.stderr


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_the_commands_without_torch(option):
    lines, facts, _ = _run(option)
    assert facts == "False 0"
    listed = [line.split()[0] for line in lines[lines.index("commands:") + 1 :][: len(COMMANDS)]]
    assert listed == list(COMMANDS)
    assert all(len(line) <= 80 for line in lines)


def test_the_version_needs_no_torch():
    assert _run("--version")[:2] == (["demask-hf 1.2.3"], "False 0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generat"], "argument COMMAND: invalid choice: 'generat'"),
        ([], "required: COMMAND"),
        (["--json"], "required: COMMAND"),
    ],
)
def test_a_wrong_command_is_one_sentence_without_torch(arguments, message):
    lines, facts, err = _run(*arguments)
    assert (lines, facts) == ([], "False 2")
    assert err.startswith("demask-hf: error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_command_is_handed_on():
    lines, facts, _ = _run("strategies")
    assert facts == "True 0"
    assert "threshold" in lines


def test_what_follows_the_command_is_not_read():
    assert read_command(["generate", "--help", "--nonsense"], "") == "generate"


def test_the_module_of_the_package_prints_the_same_help(capsys):
    with pytest.raises(SystemExit):
        read_command(["--help"], demask_hf.__version__)
    result = subprocess.run([sys.executable, "-m", "demask_hf", "--help"], capture_output=True, text=True, check=True)
    assert result.stdout == capsys.readouterr().out


def test_every_command_has_its_file():
    shared = {"__init__", "limits", "main", "parser", "options", "prompts"}
    files = Path(demask_hf.__file__).parent.glob("cli/*.py")
    assert {path.stem.replace("_", "-") for path in files if path.stem not in shared} == set(COMMANDS)
