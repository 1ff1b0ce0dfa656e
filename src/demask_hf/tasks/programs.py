"""HumanEval and MBPP: functions that are checked by running them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .base import TaskExample, before_stop
from .execution import run_program
from .formats import Question, TaskFormat, shown, text_of, texts_of


_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL | re.IGNORECASE)
# Text at the start of a line that ends a function.
_ENDS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\nassert ", "\n```")
# An indented line, or one that only occurs in code: the answer is code from its start, even if fences follow.
_CODE = re.compile(r"\n*(?:[ \t]{2,}\S|(?:def|class|import|from) )")


def code_of(text: str) -> str | None:
    """Return the first fenced block of a text, to its end if it is not closed; `None` if the text itself is code."""
    match = None if _CODE.match(text) else _FENCE.search(text)
    return match[1] if match else None


def humaneval_program(example: TaskExample, text: str) -> tuple[str, str]:
    """Return the program of an answer, which is a continuation of the prompt or a fenced block, and its tests.

    A continuation ends where something else starts, such as another function. Imports and helpers before the function
    in the prompt are also put before a fenced block, and before the tests.
    """
    prompt, entry_point = example.metadata["prompt"], example.metadata["entry_point"]
    block = code_of(text)
    start = re.compile(rf"^def {re.escape(entry_point)}\b", re.MULTILINE)
    before = start.split(prompt)[0]
    if block is None:
        solution = prompt + before_stop(text, _ENDS)
    elif start.search(block):
        solution = before + "\n" + block
    else:
        solution = prompt + block
    return solution, f"{before}\n{example.metadata['test']}\n\ncheck({entry_point})\n"


def mbpp_program(example: TaskExample, text: str) -> tuple[str, str]:
    """Return the program of an answer, which is code up to [DONE] or a fenced block, and its tests.

    Imports for the tests are also put before the program; the setup of the tests may use what the program defines.
    """
    solution = code_of(text)
    if solution is None:
        solution = before_stop(text, ("[DONE]", "\n```"))
    imports, setup, tests = (example.metadata[name] for name in ("imports", "setup", "tests"))
    return "\n".join([*imports, solution]), "\n".join([*imports, setup, *tests])


def _read_humaneval(record: dict[str, Any], path: Path) -> Question:
    prompt, entry_point = text_of(record, "prompt"), text_of(record, "entry_point")
    if re.search(rf"^def {re.escape(entry_point)}\b", prompt, re.MULTILINE) is None:
        raise ValueError(f"must have a `prompt` that defines its `entry_point`, got {shown(entry_point)}.")
    metadata: dict[str, Any] = {"prompt": prompt, "entry_point": entry_point, "test": text_of(record, "test")}
    metadata["task_id"] = record.get("task_id")
    request = f"Complete this function. Answer with the whole function in a block of code.\n\n```python\n{prompt}```"
    return Question(prompt, text_of(record, "canonical_solution"), metadata, request)


def _read_mbpp(record: dict[str, Any], path: Path) -> Question:
    task, code, tests = text_of(record, "text", "prompt"), text_of(record, "code"), texts_of(record, "test_list")
    if not tests:
        raise ValueError(f"must have a `test_list` of at least one text, got {tests!r}.")
    imports, setup = texts_of(record, "test_imports"), record.get("test_setup_code") or ""
    if not isinstance(setup, str):
        raise ValueError(f"must have a text `test_setup_code`, or none, got {shown(setup)}.")
    listed = "\n".join(tests)
    text = f"{task}\nThe code must pass these tests:\n{listed}\n[BEGIN]\n"
    request = f"{task}\nThe code must pass these tests:\n```python\n{listed}\n```\nAnswer with one block of code."
    metadata = {"tests": tests, "setup": setup, "imports": imports, "task_id": record.get("task_id")}
    return Question(text, f"{code.strip()}\n[DONE]", metadata, request)


def _judge(
    program: Callable[[TaskExample, str], tuple[str, str]], confined: bool = True
) -> Callable[[TaskExample, str], bool]:
    """Return the judge that runs the program and the tests built from an example and an answer."""
    return lambda example, text: run_program(*program(example, text), confined=confined) == "passed"


HUMANEVAL = TaskFormat(
    name="humaneval",
    description="a Python function that passes its tests",
    read=_read_humaneval,
    judge=_judge(humaneval_program),
    max_new_tokens=768,
    unconfined_judge=_judge(humaneval_program, confined=False),
)
MBPP = TaskFormat(
    name="mbpp",
    description="Python code that passes the tests it was shown",
    read=_read_mbpp,
    judge=_judge(mbpp_program),
    max_new_tokens=1024,
    num_shots=3,
    unconfined_judge=_judge(mbpp_program, confined=False),
)
