"""Wrong arguments of the command line: each must be refused before a model is loaded."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from campaign import Case

from demask_hf.assets import TINY_DREAM
from demask_hf.cli import main
from demask_hf_command import COMMANDS


_NO_NUMBERS = ("x", "", "1,5", "0x", "--", "None")
_NO_COUNTS = (*_NO_NUMBERS, "-1", "1.5", "nan", "inf", "99999999999999999999999")
#: Options whose counts may be 0, and those of any integer.
_FROM_ZERO = {"num_validation", "num_orders", "max_new_tokens", "top_k", "num_eval_states", "mixing_layers"}
_ANY_INTEGER = {"seed", "prompt_seed"}
_NO_SETTINGS = ("demsk", "demask:bound=1", "demask:dependency_bound=x", "demask:dependency_bound", "x:y=1,")


def _minimal(command: str, folder: Path) -> list[str]:
    """Return arguments with which a command would begin to work."""
    text = folder / "prompts.txt"
    text.write_text("a\n")
    records = folder / "records.jsonl"
    records.write_text('{"prompt": "a", "answer": "b"}\n' * 4)
    different = folder / "different.jsonl"
    different.write_text("".join(f'{{"prompt": "{letter}", "answer": "b"}}\n' for letter in "abcd"))
    checks = ["--num-verified", "1", "--num-calibrated", "1"]
    given = {
        "head": [TINY_DREAM, "--data", str(different), "--out", str(folder / "new"), *checks],
        "generate": ["a"],
        "watch": ["a", "--out", str(folder / "new.html")],
        "profile": ["a"],
        "collect": ["--data", str(records), "--out", str(folder / "new")],
        "train": ["--data", str(records), "--out", str(folder / "new"), "--on-the-fly", "--eval-data", str(records)],
        "benchmark": ["--out", str(folder / "new")],
        "calibrate": ["--out", str(folder / "new"), "--work", str(folder / "work")],
        "import-head": [str(folder / "none.pt"), "--model", "model", "--out", str(folder / "new")],
        "export": ["--head", str(folder / "none"), str(folder / "new")],
        "push": ["org/name", "--license", "mit", "--head", str(folder / "none")],
    }
    return given.get(command, [])


def _numbers(name: str, kind: Any) -> tuple[str, ...]:
    is_whole = "int" in str(kind)
    if not is_whole:
        return (*_NO_NUMBERS, "nan", "-inf", "-1", *(() if name == "eos_penalty" else ("inf",)))
    if name in _ANY_INTEGER:
        return (*_NO_NUMBERS, "1.5", "nan", "inf")
    return _NO_COUNTS if name in _FROM_ZERO else (*_NO_COUNTS, "0")


def _wrong(name: str, kind: Any, folder: Path, command: str) -> tuple[str, ...]:
    """Return wrong values of an option by its name and type."""
    files = (str(folder), str(folder / "none"), str(folder / "binary"), str(folder / "empty"))
    if name in ("strategy", "walk", "compare"):
        return _NO_SETTINGS
    if (command, name) == ("watch", "out"):
        return ("", "x", "x.pdf", str(folder / "none" / "x.html"), str(folder))
    if name == "set":
        return ("", "=", "x", "x=1", "dependency_bound")
    if name in ("data", "eval_data"):
        return (str(folder / "none"), str(folder / "binary"), str(folder / "empty"))
    if name == "file":
        return files
    if name in (
        "device",
        "dtype",
        "split",
        "estimator",
        "risk",
        "test",
        "scores",
        "block_cache",
        "peft",
        "recipe",
        "quantization",
    ):
        return ("", "x", "0", "nan") if name != "device" else ("", "x", "cuda:99", "nan", "cpu:x")
    if name in ("model", "head", "push"):
        return (str(folder / "none"), str(folder / "binary"), "", "a/b/c/d", "../none")
    if name == "task":
        return ("", "x", "x=", "gsm8k", f"gsm8k={folder / 'none'}", f"gsm8k={folder / 'binary'}", f"gsm8k={folder}")
    if any(number in str(kind) for number in ("int", "float")):
        return _numbers(name, kind)
    return ()


class _WorkedError(Exception):
    pass


def _run(arguments: list[str]) -> None:
    """Run a command; raise its refusal as an error, and nothing if it would load a model."""
    said = io.StringIO()
    begins = mock.patch("demask_hf.models.loading.AutoTokenizer.from_pretrained", side_effect=_WorkedError)
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), begins:
        try:
            code = main(arguments)
        except _WorkedError:
            return
    lines = said.getvalue().strip().splitlines()
    errors = [line for line in lines if line.startswith("demask-hf: error: ")]
    if code == 2 and errors and lines[-1] == errors[-1]:
        raise ValueError(errors[-1].removeprefix("demask-hf: error: "))
    if code:
        raise AssertionError(f"exit code {code}: {lines[-1:]}")


def begin(command: str, folder: Path) -> None:
    """Run a command with right arguments up to where it would load a model."""
    _run([command, *_minimal(command, folder)])


def cases(folder: Path) -> Iterator[Case]:
    """Yield command lines that must be refused; `folder` is empty."""
    (folder / "binary").write_bytes(bytes(range(256)) * 4)
    (folder / "empty").write_bytes(b"")
    yield Case("command", "none", partial(_run, []))
    yield from (Case("command", name, partial(_run, [name])) for name in ("x", "--x", "generat", ""))
    for command in COMMANDS:
        minimal = _minimal(command, folder)
        for wrong in (["--unknown"], ["--unknown=1"], ["-x"]):
            yield Case(f"command {command}", " ".join(wrong), partial(_run, [command, *minimal, *wrong]))
        parser = import_module(f"demask_hf.cli.{command.replace('-', '_')}").make_parser()
        for cls in parser.dataclass_types:
            for field in dataclasses.fields(cls):
                for value in _wrong(field.name, field.type, folder, command):
                    option = f"--{field.name.replace('_', '-')}"
                    # With an equals sign a value may begin with a dash.
                    given = [command, *minimal, f"{option}={value}"]
                    yield Case(f"command {command}", f"{option}={value}", partial(_run, given))
