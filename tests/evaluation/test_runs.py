"""Records on disk: none is lost, none is made twice, and they do not depend on how the work was split."""

import json
import re
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


def test_another_seed_draws_other_samples_and_the_same_seed_the_same(dream, tokenizer, tmp_path):
    def tokens(folder, seed):
        run = Run([TASK], 1, tmp_path / folder, seed=seed)
        run.decode(dream, tokenizer, SETTING, is_shown=False)
        return [row[0].tokens for row in run.records(SETTING)]

    default = [row[0].tokens for row in _decoded(tmp_path / "default", dream, tokenizer, num_seeds=1).records(SETTING)]
    assert tokens("zero", 0) == default
    assert tokens("seven", 7) == tokens("seven again", 7) != default


@pytest.mark.parametrize(
    "changed",
    [
        replace(TASK, examples=(replace(EXAMPLES[0], answer="w5"), *EXAMPLES[1:])),
        replace(TASK, examples=(replace(EXAMPLES[0], metadata={"target": 5}), *EXAMPLES[1:])),
    ],
)
def test_a_changed_reference_answer_is_checked_anew(dream, tokenizer, tmp_path, changed):
    _decoded(tmp_path, dream, tokenizer)
    run = Run([replace(changed, judge=lambda example, answer: example != EXAMPLES[0])], 2, tmp_path)
    with pytest.raises(ValueError, match="got 2 missing ones"):
        run.records(SETTING)
    run.decode(dream, tokenizer, SETTING, is_shown=False)
    assert [record.is_correct for record in run.records(SETTING)[0]] == [True, True]
    # What was asked for before is still there.
    assert len(Run([TASK], 2, tmp_path).records(SETTING)) == len(EXAMPLES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: {**facts, "num_forward_passes": -1}, "must have at least 0 as `num_forward_passes`, got -1"),
        (lambda facts: {**facts, "num_remasked": -1}, "must have at least 0 as `num_remasked`, got -1"),
        (lambda facts: {**facts, "seed": True}, "must have an integer as `seed`, got True"),
        (lambda facts: {**facts, "seconds": float("nan")}, "must have a finite number as `seconds`, got nan"),
        (lambda facts: {**facts, "answer": None}, "must have a text as `answer`, got None"),
        (lambda facts: {**facts, "tokens": [3]}, "must have as many `unmask_steps` as `tokens`"),
        (lambda facts: {**facts, "tokens": "w3"}, "must have a list as `tokens`, got 'w3'"),
        (
            lambda facts: {**facts, "unmask_steps": [-2] * len(facts["tokens"])},
            "must have `unmask_steps` of at least -1, got -2",
        ),
        (
            lambda facts: {**facts, "extra": 1},
            "must have the fields of StoredRecord, got one with the unknown extra",
        ),
        (lambda facts: {"seed": 0}, "must have the fields of StoredRecord, got one without answer, example, family"),
        (lambda facts: [facts], "must be a JSON object, got "),
    ],
)
def test_a_broken_record_is_named(dream, tokenizer, tmp_path, change, message):
    run = _decoded(tmp_path, dream, tokenizer)
    (file,) = tmp_path.glob("*.jsonl")
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], json.dumps(change(json.loads(lines[1]))), *lines[2:]]) + "\n")
    expected = re.escape(f"line 2 of {str(file)!r} {message}") + ".*: remove the line, and the same command makes it"
    with pytest.raises(ValueError, match=expected):
        run.records(SETTING)


@pytest.mark.parametrize("line", ["", '{"prompt": "w3', "\x00\x00"])
def test_a_blank_or_cut_line_in_the_middle_is_named(dream, tokenizer, tmp_path, line):
    run = _decoded(tmp_path, dream, tokenizer)
    (file,) = tmp_path.glob("*.jsonl")
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:3], line, *lines[4:]]) + "\n")
    with pytest.raises(ValueError, match=r"line 4 of '.*\.jsonl' must be a JSON object, got b"):
        run.records(SETTING)


def test_a_repeated_record_counts_once_and_must_not_contradict(dream, tokenizer, tmp_path):
    run = _decoded(tmp_path, dream, tokenizer)
    expected = run.records(SETTING)
    (file,) = tmp_path.glob("*.jsonl")
    again = {**json.loads(file.read_text().splitlines()[0]), "seconds": 9.0}
    other = tmp_path / f"{SETTING.key}-1.jsonl"
    other.write_text(json.dumps(again) + "\n")
    assert run.records(SETTING) == expected
    other.write_text(json.dumps({**again, "is_correct": not again["is_correct"]}) + "\n")
    with pytest.raises(
        ValueError, match=rf"line 1 of {str(other)!r} contradicts an earlier record of run 0 of 'w3 w4'"
    ):
        run.records(SETTING)


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
