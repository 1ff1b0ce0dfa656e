"""Records on disk: none is lost, none is made twice, and they do not depend on how the work was split."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

import demask_hf
from demask_hf.evaluation.records import evaluate
from demask_hf.evaluation.runs import FACTS_FILE, Run, seed_of
from demask_hf.evaluation.specs import parse_settings
from demask_hf.files import keep_facts
from demask_hf.tasks import FAMILIES, Task, TaskExample


EXAMPLES = tuple(TaskExample("words", f"w{word} w{word + 1}", "") for word in range(3, 10))
TASK = Task("words", "The answer has w5.", EXAMPLES, lambda example, answer: "w5" in answer)
OPTIONS = {"temperature": 3.0, "max_new_tokens": 4, "stop_at_eos": False}
(SETTING,) = parse_settings("threshold:confidence_threshold=0.3", OPTIONS)


def _facts(records):
    """Return everything but the time."""
    return [[replace(record, seconds=0.0) for record in row] for row in records]


def _decoded(folder, model, tokenizer, batch_size=64, num_seeds=2, examples=EXAMPLES):
    run = Run([replace(TASK, examples=examples)], num_seeds, folder, batch_size)
    run.decode(model, tokenizer, SETTING, is_shown=False)
    return run


def test_records_are_what_evaluate_returns_by_prompt_and_seed(dream, tokenizer, tmp_path):
    run = _decoded(tmp_path, dream, tokenizer)
    for number in range(2):
        seeds = [seed_of(example.prompt, number) for example in EXAMPLES]
        expected = evaluate(dream, tokenizer, TASK, SETTING.strategy, seed=seeds, **OPTIONS)
        assert _facts([[row[number] for row in run.records(SETTING)]]) == _facts([expected])
    assert len({row[number].tokens for row in run.records(SETTING) for number in range(2)}) > len(EXAMPLES)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_no_record(dream, tokenizer, tmp_path, batch_size):
    first, second = (
        _facts(_decoded(tmp_path / str(size), dream, tokenizer, size).records(SETTING)) for size in (64, batch_size)
    )
    assert first == second


def test_what_is_there_is_not_decoded_again(dream, tokenizer, tmp_path, monkeypatch):
    expected = _decoded(tmp_path, dream, tokenizer).records(SETTING)
    monkeypatch.setattr(type(dream), "generate", None)
    assert _decoded(tmp_path, dream, tokenizer).records(SETTING) == expected


def test_an_interrupted_run_goes_on_and_a_torn_line_is_written_anew(dream, tokenizer, tmp_path):
    expected = _facts(_decoded(tmp_path / "whole", dream, tokenizer).records(SETTING))
    run = _decoded(tmp_path / "cut", dream, tokenizer)
    (file,) = run.folder.glob("*.jsonl")
    content = file.read_bytes()
    lines = content.split(b"\n")
    file.write_bytes(b"\n".join(lines[:5]) + b"\n" + lines[5][:40])
    with pytest.raises(ValueError, match=r"`folder` must hold all records of threshold:\S+, got 9 missing ones"):
        run.records(SETTING)
    run.decode(dream, tokenizer, SETTING, is_shown=False)
    assert _facts(run.records(SETTING)) == expected
    kept = file.read_bytes().split(b"\n")
    assert kept[:5] == lines[:5]
    assert len(kept) == len(lines)
    assert all(json.loads(line) for line in kept[:-1])


def test_more_prompts_and_seeds_keep_the_records_of_the_fewer(dream, tokenizer, tmp_path):
    few = _decoded(tmp_path, dream, tokenizer, num_seeds=1, examples=EXAMPLES[2:5]).records(SETTING)
    more = _decoded(tmp_path, dream, tokenizer, num_seeds=3).records(SETTING)
    assert [row[:1] for row in more[2:5]] == few


@pytest.mark.parametrize(
    ("examples", "num_seeds", "message"),
    [
        (EXAMPLES, 0, "`num_seeds` must be an integer of at least 1, got 0"),
        ((), 1, "`tasks` must have prompts, each of them once, got 0 with 0 different ones"),
        (EXAMPLES[:1] * 2, 1, "`tasks` must have prompts, each of them once, got 2 with 1 different ones"),
    ],
)
def test_bad_runs_are_refused(tmp_path, examples, num_seeds, message):
    with pytest.raises(ValueError, match=message):
        Run([replace(TASK, examples=examples)], num_seeds, tmp_path)


def test_records_of_another_model_are_not_mixed_in(tmp_path):
    keep_facts(tmp_path / "run" / FACTS_FILE, {"model": "a", "head": None}, "run")
    keep_facts(tmp_path / "run" / FACTS_FILE, {"model": "a", "head": None}, "run")
    with pytest.raises(ValueError, match="`out` must be a new folder or one of the same run, got .* with model 'a' "):
        keep_facts(tmp_path / "run" / FACTS_FILE, {"model": "b", "head": None}, "run")


def test_two_processes_give_the_records_of_one(two_processes, tmp_path):
    arguments = ["-m", "demask_hf", "evaluate", "--task", "pairs", "sudoku", "--num-prompts", "3", "--seeds", "2"]
    arguments += ["--temperature", "1", "--device", "cpu", "--strategy", "demask", "--batch-size", "4", "--out"]
    for folder, start in (("one", [sys.executable]), ("two", two_processes)):
        command = [*start, *arguments, str(tmp_path / folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("peak memory") == 1
    assert len(list((tmp_path / "two").glob("*.jsonl"))) == 2
    tasks = [FAMILIES[name].task("test", 3) for name in ("pairs", "sudoku")]
    (setting,) = parse_settings("demask", {"temperature": 1.0})
    one, two = (_facts(Run(tasks, 2, tmp_path / folder).records(setting)) for folder in ("one", "two"))
    assert one == two
    assert demask_hf.TINY_DREAM in (tmp_path / "one" / "run.json").read_text(encoding="utf-8")
