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
print("torch" in sys.modules or "transformers" in sys.modules, code)
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


@pytest.mark.parametrize("command", ["generate", "train"])
def test_help_of_a_command_needs_no_torch(command):
    lines, facts, _ = _run(command, "--help")
    assert facts == "False 0"
    assert lines[0].startswith(f"usage: demask-hf {command} [-h]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a", "--nonsense"], "unrecognized arguments: --nonsense (see demask-hf generate --help)"),
        (["verify", "--num-draws", "0"], "`--num-draws` must be an integer of at least 1, got 0."),
        (["push", "org/name"], "the following arguments are required: --head"),
    ],
)
def test_wrong_arguments_of_a_command_are_one_sentence_without_torch(arguments, message):
    lines, facts, err = _run(*arguments)
    assert (lines, facts) == ([], "False 2")
    assert err.startswith(f"demask-hf: error: {message}")
    assert err.endswith(f"(see demask-hf {arguments[0]} --help)\n")
    assert len(err.splitlines()) == 1


def test_no_command_needs_torch_to_parse():
    code = "import sys, demask_hf_command as command; from importlib import import_module\n"
    code += "command.package_without_its_imports()\n"
    code += "files = [name.replace('-', '_') for name in command.COMMANDS]\n"
    code += "for name in files: import_module(f'demask_hf.cli.{name}').make_parser().format_help()\n"
    code += "print(*(name for name in ('torch', 'transformers', 'numpy') if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_names_that_need_imports_are_refused_after_parsing():
    lines, facts, err = _run("generate", "a", "--strategy", "demsk")
    assert (lines, facts) == ([], "True 2")
    assert err.startswith("demask-hf: error: `strategy` must be a registered name, got 'demsk'")
    assert err.endswith("(see demask-hf generate --help)\n")


def test_what_follows_the_command_is_not_read():
    assert read_command(["generate", "--help", "--nonsense"], "") == "generate"


def test_the_module_of_the_package_prints_the_same_help(capsys):
    with pytest.raises(SystemExit):
        read_command(["--help"], demask_hf.__version__)
    result = subprocess.run([sys.executable, "-m", "demask_hf", "--help"], capture_output=True, text=True, check=True)
    assert result.stdout == capsys.readouterr().out


def test_every_command_has_its_file():
    shared = {"__init__", "documented", "engines", "limits", "main", "parser", "options", "prompts", "terminal"}
    files = Path(demask_hf.__file__).parent.glob("cli/*.py")
    assert {path.stem.replace("_", "-") for path in files if path.stem not in shared} == set(COMMANDS)
