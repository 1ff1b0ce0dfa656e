"""HumanEval and MBPP: functions that are checked by running them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .base import TaskExample, before_stop
from .execution import run_program
from .formats import Question, TaskFormat, text_of


_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL | re.IGNORECASE)
# Text at the start of a line that ends a function.
_ENDS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\nassert ", "\n```")
# An indented line, or one that only occurs in code: the answer is code from its start, even if fences follow.
_CODE = re.compile(r"\n*(?:[ \t]{2,}\S|(?:def|class|import|from) )")


def code_of(text: str) -> str | None:
    """Return the first fenced block of a text, to its end if it is not closed; `None` if the text itself is code."""
    match = None if _CODE.match(text) else _FENCE.search(text)
    return match[1] if match else None


def humaneval_program(example: TaskExample, text: str) -> str:
    """Return the program that tests an answer: a continuation of the prompt, or a fenced block with the function.

    A continuation ends where something else starts, such as another function. Imports and helpers before the function
    in the prompt are also put before a fenced block.
    """
    prompt, entry_point = example.metadata["prompt"], example.metadata["entry_point"]
    block = code_of(text)
    start = re.compile(rf"^def {re.escape(entry_point)}\b", re.MULTILINE)
    if block is None:
        solution = prompt + before_stop(text, _ENDS)
    elif start.search(block):
        solution = start.split(prompt)[0] + "\n" + block
    else:
        solution = prompt + block
    return f"{solution}\n\n{example.metadata['test']}\n\ncheck({entry_point})\n"


def mbpp_program(example: TaskExample, text: str) -> str:
    """Return the program that tests an answer: code up to [DONE], or a fenced block."""
    solution = code_of(text)
    if solution is None:
        solution = before_stop(text, ("[DONE]", "\n```"))
    return "\n".join([example.metadata["setup"], solution, *example.metadata["tests"], ""])


def _read_humaneval(record: dict[str, Any], path: Path) -> Question:
    prompt, entry_point = text_of(record, "prompt"), text_of(record, "entry_point")
    if re.search(rf"^def {re.escape(entry_point)}\b", prompt, re.MULTILINE) is None:
        raise ValueError(f"must have a `prompt` that defines its `entry_point`, got {entry_point!r}.")
    metadata: dict[str, Any] = {"prompt": prompt, "entry_point": entry_point, "test": text_of(record, "test")}
    metadata["task_id"] = record.get("task_id")
    request = f"Complete this function. Answer with the whole function in a block of code.\n\n```python\n{prompt}```"
    return Question(prompt, text_of(record, "canonical_solution"), metadata, request)


def _read_mbpp(record: dict[str, Any], path: Path) -> Question:
    task, code, tests = text_of(record, "text", "prompt"), text_of(record, "code"), record.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise ValueError(f"must have a `test_list` of at least one text, got {tests!r}.")
    imports = record.get("test_imports") or []
    setup = "\n".join([record.get("test_setup_code") or "", *imports])
    shown = "\n".join(tests)
    text = f"{task}\nThe code must pass these tests:\n{shown}\n[BEGIN]\n"
    request = f"{task}\nThe code must pass these tests:\n```python\n{shown}\n```\nAnswer with one block of code."
    metadata = {"tests": tests, "setup": setup, "task_id": record.get("task_id")}
    return Question(text, f"{code.strip()}\n[DONE]", metadata, request)


def _passes(program: Callable[[TaskExample, str], str]) -> Callable[[TaskExample, str], bool]:
    """Return the checker that runs the program built from an example and an answer."""
    return lambda example, text: run_program(program(example, text)) == "passed"


HUMANEVAL = TaskFormat(
    name="humaneval",
    description="a Python function that passes its tests",
    read=_read_humaneval,
    judge=_passes(humaneval_program),
    max_new_tokens=768,
    executes_code=True,
)
MBPP = TaskFormat(
    name="mbpp",
    description="Python code that passes the tests it was shown",
    read=_read_mbpp,
    judge=_passes(mbpp_program),
    max_new_tokens=1024,
    num_shots=3,
    executes_code=True,
)
