import gzip
import json
import tracemalloc
import zlib

import pytest

from demask_hf.evaluation.records import evaluate
from demask_hf.tasks import FAMILIES, Task, TaskExample, load_task, task_names


RECORDS = [{"question": f"What is {number}?", "answer": f"It is.\n#### {number}"} for number in range(10)]


def test_every_task_has_a_name_and_a_description():
    names = task_names()
    assert list(names)[: len(FAMILIES)] == list(FAMILIES)
    assert set(names) - set(FAMILIES) == {
        "sudoku_4x4", "countdown", "gsm8k", "math500", "humaneval", "mbpp", "parallelbench",
    }  # fmt: skip
    assert all(names.values())


def test_a_generated_task_has_the_prompts_of_its_family():
    task = load_task("pairs", split="validation", num_examples=5, seed=3)
    assert list(task.examples) == FAMILIES["pairs"].distinct("validation", 5, 3)
    assert all(task.check(example, example.answer) for example in task.examples)
    assert not task.check(task.examples[0], "")
    assert len(load_task("pairs").examples) == 200


def test_a_file_is_asked_in_its_order_or_in_a_draw_by_seed(write_lines):
    path = write_lines(RECORDS)
    whole = load_task("gsm8k", path)
    assert [example.metadata["number"] for example in whole.examples] == [str(number) for number in range(10)]
    drawn = load_task("gsm8k", str(path), num_examples=4, seed=1)
    places = [whole.examples.index(example) for example in drawn.examples]
    assert places == sorted(set(places))
    assert drawn.examples == load_task("gsm8k", path, num_examples=4, seed=1).examples
    assert drawn.examples != load_task("gsm8k", path, num_examples=4, seed=2).examples


def test_metadata_can_be_written_as_json(write_lines):
    for example in load_task("gsm8k", write_lines([{"question": "Half?", "answer": "#### 0.5"}])).examples:
        assert json.loads(json.dumps(example.metadata)) == {"number": "1/2"}


def test_worked_examples_are_left_out_of_the_questions(write_lines):
    task = load_task("gsm8k", write_lines(RECORDS), num_shots=2)
    assert [example.metadata["number"] for example in task.examples] == [str(number) for number in range(2, 10)]
    assert task.examples[0].prompt == (
        "Question: What is 0?\nAnswer: It is.\n#### 0\n\nQuestion: What is 1?\nAnswer: It is.\n#### 1\n\n"
        "Question: What is 2?\nAnswer:"
    )


def test_files_may_be_gzipped_or_lists(tmp_path, write_lines):
    expected = load_task("gsm8k", write_lines(RECORDS)).examples
    zipped, listed = tmp_path / "data.jsonl.gz", tmp_path / "data.json"
    zipped.write_bytes(gzip.compress((tmp_path / "data.jsonl").read_bytes()))
    listed.write_text(json.dumps(RECORDS, indent=2))
    assert load_task("gsm8k", zipped).examples == expected
    assert load_task("gsm8k", listed).examples == expected


def test_line_separators_inside_a_text_do_not_end_a_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({**RECORDS[0], "question": "a\u2028b"}, ensure_ascii=False), encoding="utf-8")
    assert "a\u2028b" in load_task("gsm8k", path).examples[0].prompt


class _ChatTokenizer:
    chat_template = "made up"

    def apply_chat_template(self, turns, tokenize, add_generation_prompt):
        assert not tokenize
        assert add_generation_prompt
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + "<assistant>"


def test_a_tokenizer_asks_in_its_chat_template(write_lines):
    task = load_task("gsm8k", write_lines(RECORDS), num_shots=1, num_examples=1, tokenizer=_ChatTokenizer())
    (example,) = task.examples
    turns = example.prompt.split("<")
    assert [turn.split(">")[0] for turn in turns] == ["", "user", "assistant", "user", "assistant"]
    assert turns[2] == "assistant>It is.\n#### 0"
    assert "Question:" not in example.prompt
    # Nothing is cut in a chat, where an answer may hold such words.
    assert task.check(example, f"Question: which? #### {example.metadata['number']}")


def test_evaluate_takes_a_task(scripted, tokenizer):
    model = scripted(lambda position, context: {4 if position % 2 else 6: 0.95})
    examples = tuple(
        TaskExample("made_up", prompt, "w6", {"right": right}) for prompt, right in (("w5", "w4"), ("w3", "w6"))
    )
    task = Task("made_up", "", examples, lambda example, text: text.strip() == example.metadata["right"], 3, (" w6",))
    records = evaluate(model, tokenizer, task, strategy="threshold")
    assert [record.num_tokens for record in records] == [3, 3]
    assert [record.answer for record in records] == ["w4 w6 w4"] * 2
    assert [record.is_correct for record in records] == [True, False]
    assert {record.family for record in records} == {"made_up"}
    assert [record.num_tokens for record in evaluate(model, tokenizer, task, max_new_tokens=2)] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "pears"}, "`name` must be one of pairs, .*, parallelbench, got 'pears'"),
        ({"name": "pairs", "num_examples": 0}, "`num_examples` must be an integer of at least 1, got 0"),
        ({"name": "pairs", "split": "dev"}, "`split` must be one of train, validation, test, got 'dev'"),
        ({"name": "pairs", "path": "x"}, "`path` must be left out for pairs, which is generated, got 'x'"),
        ({"name": "pairs", "num_shots": 1}, "`num_shots` must be left out for pairs, which is generated, got 1"),
        ({"name": "pairs", "tokenizer": _ChatTokenizer()}, "`tokenizer` must be left out for pairs, .* got _ChatTok"),
        ({"name": "gsm8k"}, "`path` must be given for gsm8k, whose file is not part of the package, got None"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_task(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "train"}, "`split` must be test for gsm8k, as a file is one split, got 'train'"),
        ({"num_examples": 11}, "`num_examples` must be at most 10 for this file, got 11"),
        ({"num_shots": 10}, r"`num_shots` must be in \[0, 10\) for this file, got 10"),
        ({"num_shots": -1}, r"`num_shots` must be in \[0, 10\) for this file, got -1"),
    ],
)
def test_arguments_that_do_not_fit_the_file_are_refused(arguments, message, write_lines):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_task("gsm8k", write_lines(RECORDS), **arguments)


def test_a_tokenizer_without_a_chat_template_is_refused(write_lines, tokenizer):
    with pytest.raises(ValueError, match=r"`tokenizer` must have a chat template, got one without\."):
        load_task("gsm8k", write_lines(RECORDS), tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question": "a"}\n', r"^line 1 of '.*' must have a text `answer` of at least one character, got None\.$"),
        (b'\n{"question": \n', r"^line 2 of '.*' must be a JSON object \("),
        (b"3\n", r"^line 1 of '.*' must be a JSON object, got int\.$"),
        (b"[3]", r"^record 1 of '.*' must be a JSON object, got int\.$"),
        (b'[{"question": "a"},\n 3', r"^line 2 of '.*' must continue the JSON list \("),
        (b"", r"^`path` must hold at least one record, got none in '.*'\.$"),
        (b'{}\n{"question": "\xff"}', r"^line 2 of '.*' must be text in UTF-8 \("),
    ],
)
def test_broken_files_are_named_with_place_and_rule(content, message, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_task("gsm8k", path)


def test_files_that_are_not_there_or_not_zipped_are_named(tmp_path):
    with pytest.raises(OSError, match=r"^`path` must be a file, got '.*none.jsonl', which does not exist\.$"):
        load_task("gsm8k", tmp_path / "none.jsonl")
    (tmp_path / "data.gz").write_text("plain")
    with pytest.raises(
        ValueError, match=r"^`path` must be a whole gzipped file if it ends in .gz, got '.*data.gz' \("
    ):
        load_task("gsm8k", tmp_path / "data.gz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(range(256)), r"line 2 of '.*' must be text in UTF-8 \(invalid start byte\)\.$"),
        ('{"question": "ä"}'.encode("utf-16"), r"line 1 of '.*' must be text in UTF-8 \("),
        (b'{"question": "a", "answer": "#### 1"}\n\n \n' + b"[" * 10**5, r"line 4 of '.*' .*\(nested too deeply\)\.$"),
        (b"[" * 10**5, r"'.*' must continue the JSON list \(nested too deeply\)\.$"),
        (b'{"question": ' + b"9" * 5_000 + b"}", r"line 1 of '.*' must be a JSON object \(Exceeds the limit"),
        (b'\n{"question": NaN}', r"line 2 of '.*' must be a JSON object \(NaN is not JSON\)\.$"),
        (b'[{"question": -Infinity}]', r"'.*' must continue the JSON list \(-Infinity is not JSON\)\.$"),
        (b'{"question": "a"', r"line 1 of '.*' must be a JSON object \("),
        (b"null\n", r"line 1 of '.*' must be a JSON object, got NoneType\.$"),
        (b'{"question": 3, "answer": "#### 1"}', r"line 1 of '.*' must have a text `question` of .*, got 3\.$"),
        (b'{"question": "", "answer": "#### 1"}', r"line 1 of '.*' must have a text `question` of .*, got ''\.$"),
        (b'{"question": "a", "answer": ["#### 1"]}', r"line 1 of '.*' must have a text `answer` of .*, got \['####"),
        (b" \n\n", r"`path` must hold at least one record, got none in '.*'\.$"),
    ],
)
def test_damaged_files_get_one_sentence(content, message, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        load_task("gsm8k", path)
    assert len(str(error.value)) < 500


def test_long_values_are_shortened_in_messages(write_lines):
    record = {"question": "a", "answer": ["x" * 10**6]}
    with pytest.raises(ValueError, match=r"got \['x+\.\.\.\.$") as error:
        load_task("gsm8k", write_lines([record]))
    assert len(str(error.value)) < 500


def test_blank_lines_and_a_byte_order_mark_are_no_damage(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\r\n" + b"\r\n \r\n".join(json.dumps(record).encode() for record in RECORDS))
    assert len(load_task("gsm8k", path).examples) == 10
    path.write_bytes(b"\n\n" + json.dumps(RECORDS).encode())
    assert len(load_task("gsm8k", path).examples) == 10


def test_a_question_is_asked_once(write_lines):
    path = write_lines([*RECORDS, RECORDS[3]])
    with pytest.raises(ValueError, match=r"^line 11 of '.*' must have a question of its own, got that of line 4 of '"):
        load_task("gsm8k", path)
    # It may also be a worked example.
    assert len(load_task("gsm8k", path, num_shots=4).examples) == 7


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_a_file_that_unpacks_to_too_much_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr("demask_hf.tasks.formats.MAX_FILE_BYTES", 10_000)
    path = tmp_path / name
    content = b"\n" * 10_001
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ValueError, match=r"^`path` must hold at most 10000 bytes once unpacked, got more in '.*data"):
        load_task("gsm8k", path)


def test_no_more_is_unpacked_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("demask_hf.tasks.formats.MAX_FILE_BYTES", 2**20)
    path = tmp_path / "data.jsonl.gz"
    part = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(part.compress(bytes(2**24)) for _ in range(4)) + part.flush()
    path.write_bytes(packed)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^`path` must hold at most 1048576 bytes once unpacked, got more in '"):
            load_task("gsm8k", path)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_a_gzipped_file_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "data.jsonl.gz"
    content = gzip.compress("".join(json.dumps(record) + "\n" for record in RECORDS).encode())
    for damaged in (content[:-12], content[:20] + b"xxxx" + content[24:], b""):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"^`path` must (be a whole gzipped file|hold at least one record).* '.*data"
        ):
            load_task("gsm8k", path)


def test_what_is_no_readable_file_is_named(tmp_path, monkeypatch):
    for path in (tmp_path, "/dev/zero"):
        with pytest.raises(OSError, match=r"^`path` must be a file, got '.*', which is none\.$"):
            load_task("gsm8k", path)
    for path in ("nul\0", "x" * 5_000):
        with pytest.raises(OSError, match=r"^`path` must be a file, got '.*', which does not exist\.$"):
            load_task("gsm8k", path)
    (tmp_path / "data.jsonl").write_text("{}")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match=r"^`path` must be a readable file, got '.*data.jsonl' \(Permission denied\)\.$"):
        load_task("gsm8k", tmp_path / "data.jsonl")


@pytest.mark.parametrize("wrong", [True, "1", 1.0])
def test_a_number_of_worked_examples_is_an_integer(wrong, write_lines):
    with pytest.raises(ValueError, match=rf"^`num_shots` must be in \[0, 10\) for this file, got {wrong!r}\.$"):
        load_task("gsm8k", write_lines(RECORDS), num_shots=wrong)
