import pytest
from hypothesis import given
from hypothesis import strategies as st

from demask_hf.tasks import load_task
from demask_hf.tasks.planning import reaches


PUZZLE = {"input": "1200\n3400\n2100\n4300", "output": "1234\n3412\n2143\n4321"}
NUMBERS = {"input": "3,5,7,15", "output": "3+5=8,8+7=15"}


@pytest.fixture
def sudoku(write_lines):
    return load_task("sudoku_4x4", write_lines([PUZZLE]), num_shots=0)


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ("1234\n3412\n2143\n4321", True),
        (" 1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1\n\nInput:", True),
        ("1243\n3412\n2134\n4321", True),
        ("4321\n2143\n3412\n1234", False),
        ("1234\n3412\n2143\n4312", False),
        ("Here it is:\n1,2,3,4\n3,4,1,2\n2,1,4,3\n4,3,2,1", True),
        ("1234\n3412\n2143", False),
        ("1234\n3412\n2143\n43211", False),
        ("", False),
    ],
)
def test_a_grid_must_be_solved_and_keep_the_clues(sudoku, answer, is_right):
    assert sudoku.check(sudoku.examples[0], answer) is is_right


def test_every_solution_of_the_clues_counts(sudoku, write_lines):
    task = load_task("sudoku_4x4", write_lines([PUZZLE, {**PUZZLE, "input": "0000\n0000\n0000\n0000"}]), num_shots=0)
    other = "4321\n2143\n3412\n1234"
    assert not task.check(task.examples[0], other)
    assert task.check(task.examples[1], other)


def test_the_first_records_are_shown_and_not_asked(write_lines):
    records = [PUZZLE, PUZZLE, {**PUZZLE, "input": "0234\n3412\n2143\n4321"}]
    (example,) = load_task("sudoku_4x4", write_lines(records), num_shots=2).examples
    instruction, *shots, question = example.prompt.split("\n\n")
    assert "Sudoku" in instruction
    assert shots == [f"Input:\n{PUZZLE['input']}\nOutput:\n{PUZZLE['output']}"] * 2
    assert question == "Input:\n0234\n3412\n2143\n4321\nOutput:\n"


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ("3+5=8,8+7=15", True),
        ("3 + 5 = 8, 8 + 7 = 15\n\nInput: 1,2", True),
        ("(3+5)+7", True),
        ("(3+5)+7=15", True),
        ("7+3=10,10+5=15", True),
        ("3*5=15", False),
        ("3*5=15,7-7=0,15+0=15", False),
        ("3+5=9,9+7=16", False),
        ("3+5=8,8+7=15,15*1=15", False),
        ("3+5+7=16", False),
        ("15", False),
        ("3+5=8", False),
        ("", False),
        ("3+5=,8+7=15", False),
        ("__import__('os').getcwd()", False),
        ("3**5**7**9**9", False),
        ("(" * 500 + "3+5+7", False),
        ("3/0+5+7", False),
        ("0003+5+7", False),
        ("+3+5+7", False),
    ],
)
def test_steps_use_each_number_once_and_reach_the_target(answer, is_right):
    assert reaches([3, 5, 7], 15, answer) is is_right


def test_quotients_are_exact():
    assert reaches([1, 3, 3], 1, "1/3*3")
    assert not reaches([1, 3, 3], 1, "1/3=0,0*3=1")


@given(st.lists(st.integers(1, 99), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_a_chain_made_from_the_numbers_counts_and_one_with_a_changed_result_does_not(numbers, random):
    rest, steps = list(numbers), []
    while len(rest) > 1:
        random.shuffle(rest)
        left, right = rest.pop(), rest.pop()
        operation = random.choice("+*")
        result = left + right if operation == "+" else left * right
        steps.append(f"{left}{operation}{right}={result}")
        rest.append(result)
    assert reaches(numbers, rest[0], ",".join(steps))
    assert not reaches(numbers, rest[0] + 1, ",".join(steps))
    assert not reaches([*numbers, 1], rest[0], ",".join(steps))


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("sudoku_4x4", {**PUZZLE, "input": "100\n0400"}, r"`input` of four lines of four digits 0 to 4"),
        ("sudoku_4x4", {**PUZZLE, "output": "1234\n3412\n2143\n4312"}, r"`output` that solves its puzzle"),
        ("countdown", {**NUMBERS, "input": "3;5"}, r"`input` of at least three numbers with commas between"),
        ("countdown", {**NUMBERS, "output": "3+5=8"}, r"`output` that reaches its target, got '3\+5=8'"),
        ("countdown", {"input": "3,5,7,15"}, r"a text `output` of at least one character, got None"),
    ],
)
def test_broken_records_are_named_with_their_line(name, record, message, write_lines):
    good = PUZZLE if name == "sudoku_4x4" else NUMBERS
    with pytest.raises(ValueError, match=rf"^line 2 of '.*data.jsonl' must have .*{message}") as caught:
        load_task(name, write_lines([good, record]), num_shots=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "num_asked"),
    [("countdown", "cd4_test.jsonl", 992), ("countdown", "cd5_test.jsonl", 992)]
    + [("sudoku_4x4", f"sudoku_4x4_{given}.jsonl", 100) for given in range(4, 13)],
)
def test_published_files_are_read_and_their_answers_count(name, file, num_asked, published):
    task = load_task(name, published(f"{name.split('_')[0]}/{file}"))
    assert len(task.examples) == num_asked
    assert all(task.check(example, example.answer) for example in task.examples)
    shown = task.examples[0].answer
    assert not any(task.check(example, shown) for example in task.examples[1:20] if example.answer != shown)


@pytest.mark.parametrize("number", ["9" * 21, "9" * 5_000])
def test_numbers_that_are_too_long_are_refused(number, write_lines):
    record = {"input": f"1,2,{number}", "output": "1+2=3"}
    with pytest.raises(ValueError, match=r"^line 1 of '.*' must have an `input` of .* of at most 20 digits each"):
        load_task("countdown", write_lines([record]), num_shots=0)


@pytest.mark.parametrize("text", ["9" * 5_000, "3+" + "9" * 150, "(" * 200, "9" * 99 + "*" + "9" * 99, "3**5**7**15"])
def test_extreme_answers_are_wrong(text):
    assert not reaches([3, 5, 7], 15, text)
