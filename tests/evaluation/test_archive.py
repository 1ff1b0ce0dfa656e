"""Records of a comparison in one file: the tables that come back are those that went in."""

import dataclasses
import json
import lzma

import numpy as np
import pytest

from demask_hf.evaluation.archive import Archive
from demask_hf.evaluation.benchmark import run_benchmark
from demask_hf.evaluation.records import Record
from demask_hf.evaluation.runs import Run
from demask_hf.evaluation.specs import parse_settings
from demask_hf.tasks import Task, TaskExample


TASKS = [
    Task(name, "", tuple(TaskExample(name, f"<{index}>", "") for index in range(12)), lambda example, answer: True)
    for name in ("pairs", "lists")
]


class FakeRun(Run):
    """A run whose records follow from the setting; one step has no rank correlation."""

    def records(self, setting):
        passes = 5 if setting.strategy["name"] == "threshold" else 20
        return [
            [
                Record(prompt, f"answer {seed}", (3, 4), (0, seed), passes, seed, 0.25, task, index % (seed + 2) == 0)
                for seed in range(self.num_seeds)
            ]
            for task, index, prompt in (
                (task.name, index, example.prompt)
                for task in self.tasks
                for index, example in enumerate(task.examples)
            )
        ]


@pytest.fixture
def archive(tmp_path):
    """Return an archive, and the report that it belongs to."""
    grid = [parse_settings("sequential"), parse_settings("threshold:confidence_threshold=0.9/0.7/0.5")]
    runs = [FakeRun(TASKS, count, tmp_path / str(count)) for count in (1, 3)]
    report = run_benchmark(grid, *runs, lambda run, setting: None, 0.01, True)
    options = {"margin": 0.01, "has_whole_length": True}
    return Archive({"model": "none"}, grid, options, report.outcomes), report


def test_without_row_forwards_each_pass_computed_a_row_once(archive, tmp_path):
    archive[0].write(tmp_path / "records.json.xz")
    with lzma.open(tmp_path / "records.json.xz", "rt") as stream:
        content = json.load(stream)
    for split in content["splits"].values():
        for outcome in split["outcomes"]:
            del outcome["num_row_forwards"]
    with lzma.open(tmp_path / "old.json.xz", "wt") as stream:
        json.dump(content, stream)
    for outcome in Archive.read(tmp_path / "old.json.xz").outcomes.values():
        assert (outcome.num_row_forwards == outcome.num_forward_passes).all()


def test_the_report_is_computed_again_from_the_file(archive, tmp_path):
    kept, report = archive
    kept.write(tmp_path / "records.json.xz")
    found = Archive.read(tmp_path / "records.json.xz")
    assert found.facts == {"model": "none"}
    np.testing.assert_equal(found.report().rows(), report.rows())
    assert [outcome.setting for outcome in found.report().validation] == [each.setting for each in report.validation]
    for key, outcome in report.outcomes.items():
        assert (found.outcomes[key].prompt == outcome.prompt).all()
        assert (found.outcomes[key].answers == outcome.answers).all()


def test_a_missing_record_is_named(archive, tmp_path):
    kept, _ = archive
    del kept.outcomes["validation", kept.grid[1][2].key]
    with pytest.raises(ValueError, match="the archive must hold the validation records of 'threshold.*, got none"):
        kept.report()


def test_records_with_all_fields_spelled_out_are_found(archive):
    kept, report = archive
    outcome = kept.outcomes.pop(("validation", kept.grid[1][2].key))
    spelled = dataclasses.replace(outcome.setting, strategy=outcome.setting.build().to_dict())
    kept.outcomes["validation", spelled.key] = dataclasses.replace(outcome, setting=spelled)
    np.testing.assert_equal(kept.report().rows(), report.rows())


@pytest.mark.parametrize("damage", ["text", "version", "length", "field"])
def test_other_files_are_refused(archive, tmp_path, damage):
    kept, _ = archive
    file = tmp_path / "records.json.xz"
    kept.write(file)
    with lzma.open(file, "rt") as stream:
        content = json.load(stream)
    if damage == "version":
        content["version"] = 99
    if damage == "length":
        content["splits"]["test"]["outcomes"][0]["is_correct"].pop()
    if damage == "field":
        del content["splits"]["test"]["outcomes"][0]["num_tokens"]
    with lzma.open(file, "wt") as stream:
        json.dump(content, stream)
    if damage == "text":
        file.write_text("no archive")
    with pytest.raises(ValueError, match="must hold the records of a benchmark"):
        Archive.read(file)
