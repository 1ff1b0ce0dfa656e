import json

import pytest

from demask_hf.tasks import load_task


PEOPLE = ["Ada Lee", "Bo Kim", "Cy Roy"]
LINE = '["Ada Lee", "Bo Kim", "Cy Roy"]'


def _record(metric, answer, prompt="Line: {context}", asked=None, **fields):
    return {"input": asked or {"context": LINE}, "answer": answer, "prompt": prompt, "metric": metric, **fields}


COPY = _record("list_match_score", LINE)
SHUFFLE = _record("list_shuffle_score", {"input": PEOPLE, "example": '["Bo Kim", "Ada Lee", "Cy Roy"]'})
ADDED = {"input": PEOPLE, "word": "Di Fox", "example": '["Ada Lee", "Bo Kim", "Di Fox", "Cy Roy"]'}
INSERT = _record("list_random_insert_score", ADDED)
REMOVE = _record("list_random_remove_score", {"input": PEOPLE, "example": '["Ada Lee", "Cy Roy"]'})
CHANGED = {"input": PEOPLE, "word": "Di Fox", "example": '["Ada Lee", "Di Fox", "Cy Roy"]'}
REPLACE = _record("list_random_replace_score", CHANGED)
SQUARE = _record(
    "latin_square_score",
    {"symbols": ["A", "7"], "example": "A,7\n7,A"},
    "Square of size {size} of {symbols}.",
    {"size": 2, "symbols": "[A, 7]"},
)
SUDOKU = _record(
    "sudoku_score",
    "1234\n3412\n2143\n4321",
    "Solve:\n\n{puzzle}",
    {"size": 4, "puzzle": "1_34\n3412\n2143\n432_"},
)


@pytest.mark.parametrize(
    ("record", "right", "wrong"),
    [
        (COPY, [LINE, f"The list is {LINE}.", "[Ada Lee, Bo Kim, Cy Roy]"], ['["Ada Lee", "Bo Kim"]', "", "Ada Lee"]),
        (
            SHUFFLE,
            ['["Cy Roy", "Bo Kim", "Ada Lee"]'],
            [LINE, '["Cy Roy", "Bo Kim"]', '["Cy Roy", "Cy Roy", "Ada Lee"]'],
        ),
        (
            INSERT,
            [
                '["Di Fox", "Ada Lee", "Bo Kim", "Cy Roy"]',
                '["Ada Lee", "Bo Kim", "Cy Roy", "Di Fox"]',
            ],
            [LINE, '["Bo Kim", "Ada Lee", "Cy Roy", "Di Fox"]', '["Ada Lee", "Di Fox", "Cy Roy"]'],
        ),
        (REMOVE, ['["Bo Kim", "Cy Roy"]', '["Ada Lee", "Bo Kim"]'], [LINE, '["Cy Roy", "Bo Kim"]', '["Ada Lee"]']),
        (REPLACE, ['["Di Fox", "Bo Kim", "Cy Roy"]'], [LINE, '["Di Fox", "Di Fox", "Cy Roy"]', '["Di Fox"]']),
        (SQUARE, ["7, A\nA, 7", "Here:\nA,7\n7,A"], ["A,7\nA,7", "A,7", "A,B\nB,A", ""]),
        (
            SUDOKU,
            ["1234\n3412\n2143\n4321", "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1"],
            ["1_34\n3412\n2143\n432_", "4321\n2143\n3412\n1234", ""],
        ),
    ],
    ids=["copy", "shuffle", "insert", "remove", "replace", "latin_square", "sudoku"],
)
def test_answers_are_judged_by_the_metric_of_their_record(record, right, wrong, write_lines):
    task = load_task("parallelbench", write_lines([record]))
    (example,) = task.examples
    assert task.check(example, example.answer)
    assert [task.check(example, text) for text in right] == [True] * len(right)
    assert [task.check(example, text) for text in wrong] == [False] * len(wrong)


def test_prompt_and_metric_may_stand_in_the_configuration_beside_the_file(write_lines):
    bare = {name: value for name, value in COPY.items() if name in ("input", "answer")}
    path = write_lines([bare], "waiting_line/copy.jsonl")
    config = {"waiting_line/sort": {"prompt": "no", "metric": "no"}}
    config |= {"waiting_line/copy": {"prompt": "Copy\\n{context}", "metric": "list_match_score", "num_samples": 1}}
    # JSON is YAML.
    (path.parent / "task_config.yaml").write_text(json.dumps(config))
    (example,) = load_task("parallelbench", path).examples
    assert example.prompt == f"Copy\n{LINE}\n\n"
    assert example.answer == LINE


def test_objects_may_be_written_as_json_in_a_text(write_lines):
    packed = {**REMOVE, **{name: json.dumps(REMOVE[name]) for name in ("input", "answer")}}
    plain, unpacked = (load_task("parallelbench", write_lines([record])) for record in (REMOVE, packed))
    assert unpacked.examples == plain.examples


def test_the_worked_examples_of_a_record_come_first(write_lines):
    shot = {"input": {"context": '["Ed Orr"]'}, "answer": '["Ed Orr"]'}
    record = {**COPY, "input": {**COPY["input"], "icl_examples": [shot]}}
    (example,) = load_task("parallelbench", write_lines([record])).examples
    assert example.prompt == f'Line: ["Ed Orr"]\n\n["Ed Orr"]\n\nLine: {LINE}\n\n'


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**COPY, "prompt": None}, "have a `prompt`, or task_config.yaml next to the file must have one"),
        ({**COPY, "metric": "grammar_score"}, "have as `metric` one of list_match_score, .*, got 'grammar_score'"),
        ({**COPY, "metric": ["list_match_score"]}, r"have as `metric` one of list_match_score, .*, got \['list_m"),
        ({**COPY, "prompt": "{context:>9999999999}"}, "have the fields of its prompt and its metric list_match_score"),
        ({**COPY, "prompt": "{context.__class__}"}, "have the fields of its prompt and its metric list_match_score"),
        ({**COPY, "prompt": "{context"}, "have the fields of its prompt and its metric list_match_score"),
        ({**COPY, "input": {**COPY["input"], "icl_examples": [3]}}, "have the fields of its prompt and its metric"),
        ({**COPY, "input": '{"a": ' + "[" * 10**5}, "have an object `input`, got '{"),
        ({**SUDOKU, "input": {"puzzle": "12"}}, "have the fields of its prompt and its metric sudoku_score, got Val"),
        ({**COPY, "input": "x"}, "have an object `input`, got 'x'"),
        ({**COPY, "input": {"line": "x"}}, r"have the fields of its prompt and its metric list_match_score, got KeyE"),
        ({**COPY, "answer": {"example": LINE}}, r"have the fields of its prompt and its metric list_match_score"),
        ({**SUDOKU, "answer": "1234"}, "have an `answer` that its metric sudoku_score counts as right, got '1234'"),
    ],
)
def test_broken_records_are_named_with_their_line(record, message, write_lines):
    with pytest.raises(ValueError, match=rf"^line 2 of '.*data.jsonl' must {message}"):
        load_task("parallelbench", write_lines([COPY, record]))


@pytest.mark.parametrize("content", ["{", "copy", "copy: 3", "3: {}"])
def test_a_broken_configuration_is_named(content, write_lines):
    path = write_lines([COPY], "copy.jsonl")
    (path.parent / "task_config.yaml").write_text(content)
    with pytest.raises(
        ValueError, match=r"^line 1 of '.*' must have a task_config.yaml of tasks by name next to its fi"
    ):
        load_task("parallelbench", path)
