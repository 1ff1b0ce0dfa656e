import pytest

from demask_hf.cli.parser import CommandParser
from demask_hf.cli.prompts import TaskOptions, load_tasks
from demask_hf.tasks import isolation, load_task, run_program
from demask_hf.tasks.programs import humaneval_program, mbpp_program


# Programs that are run here are right or harmless.
ALLOWED = True if isolation()["files"] else "unconfined"
pytestmark = pytest.mark.filterwarnings("ignore:Programs of .* run unconfined")
FUNCTION = {
    "task_id": "Made/0",
    "prompt": 'from math import sqrt\n\n\ndef half(x):\n    return x / 2\n\n\ndef area(side):\n    """Area."""\n',
    "entry_point": "area",
    "canonical_solution": "    return side * side\n",
    "test": "def check(area):\n    assert area(3) == 9\n    assert sqrt(area(2)) == 2\n    assert half(2)\n",
}
CODE = {
    "task_id": 11,
    "text": "Write a function that doubles a number.",
    "code": "def double(x):\r\n  return 2 * x",
    "test_list": ["assert double(2) == 4", "assert double(limit) == 6"],
    "test_setup_code": "limit = 3",
    "challenge_test_list": [],
}
SANITIZED = {
    "task_id": 12,
    "prompt": "Write a function that gives pi.",
    "code": "def pi():\n    return math.pi",
    "test_imports": ["import math"],
    "test_list": ["assert pi() == math.pi"],
}


@pytest.fixture
def humaneval(write_lines):
    return load_task("humaneval", write_lines([FUNCTION]), allow_code_execution=ALLOWED)


@pytest.fixture
def mbpp(write_lines):
    return load_task("mbpp", write_lines([CODE, SANITIZED]), num_shots=0, allow_code_execution=ALLOWED)


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("    return side * side\n", True),
        ("    return side ** 2\n\n\ndef other():\n    return unknown", True),
        ("    return side ** 2\n\nprint(unknown)", True),
        ("Sure:\n```python\ndef area(side):\n    return side * side\n```\nIt multiplies.", True),
        ("```\n    return side * side\n```", True),
        ("```python\ndef area(side):\n    return side * side", True),
        ("    return side * side\n```\nThis is the area:\n```\nunknown\n```", True),
        ("\n    return side * side\n```", True),
        ("    return 2 * side\n", False),
        ("```python\ndef area(side):\n    return 0\n```", False),
        ("", False),
        ("no code", False),
    ],
)
def test_functions_are_judged_by_their_tests(humaneval, text, is_right):
    assert humaneval.check(humaneval.examples[0], text) is is_right


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("def double(x):\n    return x + x\n[DONE]\nText: ...", True),
        ("Here:\n```python\ndef double(x):\n    return x + x\n```", True),
        ("def double(x):\n    return x + x\n```\nAs in\n```python\nunknown\n```", True),
        ("def double(x):\n    return x\n[DONE]", False),
        ("", False),
    ],
)
def test_code_is_judged_by_the_tests_it_was_shown(mbpp, text, is_right):
    assert mbpp.check(mbpp.examples[0], text) is is_right


def test_the_prompts_show_the_tests_and_examples(write_lines):
    (example,) = load_task("mbpp", write_lines([CODE, SANITIZED]), num_shots=1, allow_code_execution=ALLOWED).examples
    assert example.prompt == (
        "Write a function that doubles a number.\nThe code must pass these tests:\nassert double(2) == 4\n"
        "assert double(limit) == 6\n[BEGIN]\ndef double(x):\r\n  return 2 * x\n[DONE]\n\n"
        "Write a function that gives pi.\nThe code must pass these tests:\nassert pi() == math.pi\n[BEGIN]\n"
    )


def test_reference_solutions_pass(humaneval, mbpp):
    for task in (humaneval, mbpp):
        assert all(task.check(example, example.answer) for example in task.examples)


def test_the_prompt_of_a_function_is_the_record_itself(humaneval):
    assert humaneval.examples[0].prompt == FUNCTION["prompt"]


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_nothing_runs_without_the_flag(name, write_lines):
    with pytest.raises(ValueError, match=rf"^`allow_code_execution` must be True for {name}, which runs .* got False"):
        load_task(name, write_lines([FUNCTION if name == "humaneval" else CODE]))


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        (
            "humaneval",
            {**FUNCTION, "entry_point": "volume"},
            r"a `prompt` that defines its `entry_point`, got 'volume'",
        ),
        ("humaneval", {**FUNCTION, "test": ""}, r"a text `test` of at least one character, got ''"),
        ("mbpp", {**CODE, "test_list": []}, r"a `test_list` of at least one text, got \[\]"),
        ("mbpp", {"code": "x", "test_list": ["y"]}, r"a text `text` or `prompt` of at least one character, got None"),
    ],
)
def test_broken_records_are_named_with_their_line(name, record, message, write_lines):
    with pytest.raises(ValueError, match=rf"^line 1 of '.*' must have {message}\.$"):
        load_task(name, write_lines([record]), num_shots=0, allow_code_execution=ALLOWED)


def test_the_published_file_is_read_and_its_solutions_pass(published):
    task = load_task("humaneval", published("humaneval/HumanEval.jsonl.gz"), allow_code_execution=ALLOWED)
    assert len(task.examples) == 164
    # Each runs in a process of its own: a few of them here, all of them by the slow test.
    for example in task.examples[::40]:
        assert task.check(example, example.answer)
        assert not task.check(example, "    return None\n")


@pytest.mark.slow
def test_all_published_solutions_pass_as_continuations_and_as_blocks(published):
    task = load_task("humaneval", published("humaneval/HumanEval.jsonl.gz"), allow_code_execution=ALLOWED)
    for example in task.examples:
        block = f"```python\n{example.prompt}{example.answer}\n```"
        assert run_program(*humaneval_program(example, example.answer), confined=ALLOWED is True) == "passed"
        assert run_program(*humaneval_program(example, block), confined=ALLOWED is True) == "passed"


def test_tests_hold_the_setup_and_programs_do_not(mbpp):
    first, second = (mbpp_program(example, example.answer) for example in mbpp.examples)
    assert "assert" not in first[0]
    assert "limit" not in first[0]
    assert "limit = 3" in first[1]
    assert first[1].count("assert") == 2
    assert all("import math" in part for part in second)


def test_the_setup_of_tests_may_use_what_the_program_defines(write_lines):
    code = "class Node:\n    def __init__(self, key):\n        self.left = None\n"
    code += "def has_left(node):\n    return node.left is not None"
    setup = "root = Node(1)\nroot.left = Node(2)"
    record = {**CODE, "code": code, "test_setup_code": setup, "test_list": ["assert has_left(root)"]}
    task = load_task("mbpp", write_lines([record]), num_shots=0, allow_code_execution=ALLOWED)
    assert task.check(task.examples[0], task.examples[0].answer)
    assert not task.check(task.examples[0], code.replace("not None", "None"))


def test_a_function_cannot_replace_its_tests(humaneval):
    forged = "```python\ndef area(side):\n    return 0\n\ndef check(area):\n    pass\n\nimport os\nos._exit(0)\n```"
    assert not humaneval.check(humaneval.examples[0], forged)


def test_unconfined_is_a_word_of_its_own_and_warns(write_lines, monkeypatch):
    monkeypatch.setattr("demask_hf.tasks.execution._obstacle", lambda: "no namespaces")
    path = write_lines([FUNCTION])
    with pytest.raises(
        OSError, match=r"^programs must be confined, .* \(no namespaces\); `allow_code_execution='unconf"
    ):
        load_task("humaneval", path, allow_code_execution=True)
    with pytest.warns(UserWarning, match=r"^Programs of humaneval run unconfined: each can do .* what you can\.$"):
        task = load_task("humaneval", path, allow_code_execution="unconfined")
    assert task.check(task.examples[0], task.examples[0].answer)
    assert not task.check(task.examples[0], "    return 0\n")
    with pytest.raises(ValueError, match=r"^`allow_code_execution` must be False, True or 'unconfined', got 'yes'\.$"):
        load_task("humaneval", path, allow_code_execution="yes")


@pytest.mark.parametrize(
    ("words", "allowed"),
    [([], None), (["--allow-code-execution"], "confined"), (["--allow-code-execution", "unconfined"], "unconfined")],
)
def test_the_command_line_confines_unless_another_word_is_given(words, allowed, write_lines, monkeypatch):
    monkeypatch.setattr("demask_hf.tasks.execution._obstacle", lambda: "no namespaces")
    task = ["--task", f"humaneval={write_lines([FUNCTION])}"]
    (options,), _ = CommandParser("evaluate", TaskOptions).parse([*task, *words])
    assert options.allow_code_execution == allowed
    if allowed == "unconfined":
        with pytest.warns(UserWarning, match="run unconfined"):
            load_tasks(options, "test", 1)
    else:
        refusal = (ValueError, "^`allow_code_execution` must be True") if allowed is None else (OSError, "be confined")
        with pytest.raises(refusal[0], match=refusal[1]):
            load_tasks(options, "test", 1)


def test_the_command_line_knows_no_third_word():
    with pytest.raises(ValueError, match=r"allow-code-execution.*'yes'"):
        CommandParser("evaluate", TaskOptions).parse(["--allow-code-execution", "yes"])
