"""A disk that fails at any write: one sentence, and the same command then gives what it gives without a failure."""

import errno
import json
import os
from collections.abc import Callable

import pytest

from demask_hf import files
from demask_hf.cli.evaluate import keep_run_facts
from demask_hf.cli.main import main
from demask_hf.evaluation.runs import Run
from demask_hf.evaluation.specs import parse_settings
from demask_hf.tasks import Task, TaskExample
from demask_hf.training import store
from demask_hf.training.collection import collect
from demask_hf.training.prompts import TokenizedPrompt
from demask_hf.training.states import CollectionSettings


class FailingDisk:
    """Count writes, and let one of them leave half of its content and fail."""

    def __init__(self, monkeypatch):
        self.num_writes, self.failing = 0, None
        self._write, self._save, self._replace = files._write, store.save_file, os.replace
        monkeypatch.setattr(files, "_write", self._written)
        monkeypatch.setattr(store, "save_file", self._saved)
        monkeypatch.setattr(os, "replace", self._replaced)

    def _is_next(self) -> bool:
        self.num_writes += 1
        return self.num_writes == self.failing

    def _written(self, file, mode, content):
        if self._is_next():
            self._write(file, mode, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(file, mode, content)

    def _saved(self, tensors, file, metadata):
        self._save(tensors, file, metadata)
        if self._is_next():
            os.truncate(file, file.stat().st_size // 2)
            raise store.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def _replaced(self, old, new):
        if self._is_next():
            raise OSError(errno.EIO, "Input/output error")
        self._replace(old, new)


@pytest.fixture
def disk(monkeypatch):
    return FailingDisk(monkeypatch)


def _check_every_write(disk: FailingDisk, start: Callable[[str], bool], same: Callable[[str], None]) -> None:
    """Fail at every write in turn, then start again.

    Args:
        disk (`FailingDisk`):
            The disk.
        start (`Callable`):
            Does the work into the folder of this name and returns whether the disk stopped it.
        same (`Callable`):
            Compares the folder of this name with that of a run that nothing stopped.
    """
    assert not start("whole")
    num_writes = disk.num_writes
    for number in range(1, num_writes + 1):
        disk.num_writes, disk.failing = 0, number
        assert start(f"cut {number}"), number
        disk.failing = None
        assert not start(f"cut {number}"), number
        same(f"cut {number}")
    assert num_writes > 5


def test_a_collection_resumes_after_any_failed_write(dream, tmp_path, disk):
    settings = CollectionSettings(num_states=4, answer_length=4, batch_size=2, states_per_shard=2, estimator="argmax")
    prompts = [TokenizedPrompt((3, 4), (6, 7)), TokenizedPrompt((5,), (8, 9, 10))]

    def start(name):
        try:
            collect(dream, prompts, tmp_path / name, settings, is_verbose=False)
        except files.WriteError:
            return True
        return False

    def content(name):
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    _check_every_write(disk, start, lambda name: _assert_equal(content(name), content("whole")))


def test_records_resume_after_any_failed_write(dream, tokenizer, tmp_path, disk):
    examples = tuple(TaskExample("words", f"w{word} w{word + 1}", "") for word in range(3, 8))
    task = Task("words", "The answer has w5.", examples, lambda example, answer: "w5" in answer)
    (setting,) = parse_settings("threshold:confidence_threshold=0.3", {"temperature": 3.0, "max_new_tokens": 4})

    def start(name):
        run = Run([task], 2, tmp_path / name, batch_size=3)
        try:
            keep_run_facts(tmp_path / name, {"model": "tiny"}, dream)
            run.decode(dream, tokenizer, setting, is_shown=False)
        except files.WriteError:
            return True
        return False

    def content(name):
        (file,) = (tmp_path / name).glob("*.jsonl")
        return {path.name for path in file.parent.iterdir()}, sorted(map(_without_time, file.open()), key=str)

    _check_every_write(disk, start, lambda name: _assert_equal(content(name), content("whole")))


@pytest.mark.slow
def test_a_benchmark_resumes_after_any_failed_write(tmp_path, disk, capsys, monkeypatch):
    def draw(*arguments):
        *_, file = arguments
        files.write_text(file, "a figure")

    for figure in ("evaluation.figures.frontier", "evaluation.figures.order", "bound.figures.dependency"):
        monkeypatch.setattr(f"demask_hf.{figure}_figure", draw)
    arguments = ["--task", "pairs", "--num-prompts", "2", "--num-validation", "1", "--compare", "threshold"]
    arguments += ["--device", "cpu", "--max-new-tokens", "3"]

    def start(name):
        code = main(["benchmark", "--out", str(tmp_path / name), *arguments])
        _, err = capsys.readouterr()
        if code:
            assert (code, len(err.splitlines()[-1:])) == (2, 1)
            assert err.splitlines()[-1].startswith("demask-hf: error: ")
            assert "was not written to" in err.splitlines()[-1]
            assert "the same command, run again, resumes." in err.splitlines()[-1]
        return bool(code)

    def content(name):
        folder = tmp_path / name
        records = {
            path.relative_to(folder): [_without_time(line) for line in path.read_text().splitlines()]
            for path in folder.glob("*/*.jsonl")
        }
        return records, (folder / "table.md").read_text(), sorted(path.name for path in folder.iterdir())

    _check_every_write(disk, start, lambda name: _assert_equal(content(name), content("whole")))


def _without_time(line):
    return {name: value for name, value in json.loads(line).items() if name != "seconds"}


def _assert_equal(found, expected):
    assert found == expected
