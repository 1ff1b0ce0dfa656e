"""Folders that the commands read, and functions that run them, with a tiny random model."""

import io
import json
import sys

import pytest

from demask_hf import DemaskGenerationConfig
from demask_hf.cli.main import main


NUM_NEW_TOKENS = 8
FAST = ("--steps", "4", "--eval-every", "2", "--batch-size", "4", "--device", "cpu", "--set", "disable_tqdm=true")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, dream_with_head, tokenizer) -> dict[str, str]:
    """Return the folders of a tiny random Dream and of its head."""
    model, head = (tmp_path_factory.mktemp(name) for name in ("model", "head"))
    dream_with_head.save_pretrained(model)
    tokenizer.save_pretrained(model)
    DemaskGenerationConfig(max_new_tokens=NUM_NEW_TOKENS).save_pretrained(model)
    dream_with_head.demask_head.save_pretrained(head)
    return {"--model": str(model), "--head": str(head)}


@pytest.fixture
def generate(folders, capsys, monkeypatch):
    """Return a function that runs `demask-hf generate` with the tiny model: its exit code, output and messages."""

    def run(*arguments: str, stdin: str = "", head: bool = True, device: str | None = "cpu"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        paths = [part for option in folders.items() if head or option[0] == "--model" for part in option]
        code = main(["generate", *arguments, *paths, *([] if device is None else ["--device", device])])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory, dream, tokenizer):
    """Return a folder with a model and two files of prompts."""
    folder = tmp_path_factory.mktemp("files")
    dream.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    DemaskGenerationConfig(max_new_tokens=6).save_pretrained(folder / "model")
    for name, start in (("train", 3), ("eval", 13)):
        rows = [{"prompt": f"w{number}", "answer": f"w{number + 1} w5"} for number in range(start, start + 10)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def run(capsys, files):
    """Return a function that runs a command and returns its exit code, output and messages."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def states(files):
    """Return the folder of a collection."""
    options = ["--num-states", "20", "--states-per-shard", "8", "--estimator", "argmax", "--device", "cpu"]
    options += ["--strategy", "threshold:confidence_threshold=0.5"]
    collect = ["collect", "--model", files / "model", "--data", files / "train.jsonl", "--out", files / "states"]
    assert main([str(argument) for argument in [*collect, *options]]) == 0
    return files / "states"


@pytest.fixture(scope="module")
def head(files, states, fast):
    """Return the folder of a trained head."""
    options = ["--width", "16", "--eval-share", "0.4", *fast]
    assert main(["train", "--data", str(states), "--out", str(files / "head"), *options]) == 0
    return files / "head"


@pytest.fixture(scope="module")
def fast():
    """Return the options of a training that takes a moment."""
    return FAST
