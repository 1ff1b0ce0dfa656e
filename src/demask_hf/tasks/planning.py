"""Sudoku 4x4 and Countdown in the format of Dream's evaluation data: records with `input` and `output`."""

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from .base import TaskExample
from .formats import Question, TaskFormat, shown, text_of
from .sudoku import solves


# Both are shown with eight worked examples, the first records of the file, as in Dream's evaluation.
NUM_SHOTS = 8
_GRID = re.compile(r"(?<!\S)[1-4]{4}(\n[1-4]{4}){3}(?!\S)")
_OPERATIONS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def first_grid(text: str) -> str:
    """Return the 16 digits of the first grid in a text that looks solved, without spaces and commas; "" if none."""
    compact = re.sub(r"[ ,\t\r]", "", text)
    match = _GRID.search(compact)
    return match[0].replace("\n", "") if match else ""


def _read_sudoku(record: dict[str, Any], path: Path) -> Question:
    puzzle, answer = text_of(record, "input"), text_of(record, "output")
    if re.fullmatch(r"[0-4]{4}(\n[0-4]{4}){3}", puzzle) is None:
        raise ValueError(f"must have an `input` of four lines of four digits 0 to 4, got {shown(puzzle)}.")
    cells = puzzle.replace("\n", "")
    if not solves(cells, first_grid(answer)):
        raise ValueError(f"must have an `output` that solves its puzzle, got {shown(answer)}.")
    return Question(f"Input:\n{puzzle}\nOutput:\n", answer, {"puzzle": cells})


def _judge_sudoku(example: TaskExample, text: str) -> bool:
    return solves(example.metadata["puzzle"], first_grid(text))


def _read_countdown(record: dict[str, Any], path: Path) -> Question:
    listed, answer = text_of(record, "input"), text_of(record, "output")
    if re.fullmatch(r"\d{1,20}(,\d{1,20}){2,}", listed) is None:
        raise ValueError(
            "must have an `input` of at least three numbers with commas between, of at most 20 digits each, "
            f"got {shown(listed)}."
        )
    *numbers, target = map(int, listed.split(","))
    if not reaches(numbers, target, answer):
        raise ValueError(f"must have an `output` that reaches its target, got {shown(answer)}.")
    return Question(f"Input: {listed}\nOutput: ", answer, {"numbers": numbers, "target": target})


def _judge_countdown(example: TaskExample, text: str) -> bool:
    return reaches(example.metadata["numbers"], example.metadata["target"], text)


def reaches(numbers: list[int], target: int, text: str) -> bool:
    """Return whether a text leads from the numbers to the target and uses each number exactly once.

    The text is a chain of steps, such as "86+28=114,31-13=18,114-18=96", whose results may also be used once; or one
    expression, such as "(86+28)-(31-13)", with or without its result. Results of steps are whole and not negative.
    """
    available = Counter(map(Fraction, numbers))
    steps = text.strip().split("\n", 1)[0].replace(" ", "").split(",")
    for step in steps:
        expression, equals, result = step.partition("=")
        value = _value(expression, available)
        if value is None or (equals and re.fullmatch(r"\d{1,20}", result) is None):
            return False
        if value != (int(result) if equals else target):
            return False
        available[value] += 1
    return available.total() == 1 and available[Fraction(target)] == 1


def _value(expression: str, available: Counter) -> Fraction | None:
    """Return the value of an expression and remove its numbers; `None` if it is invalid, or a number is missing."""
    if re.fullmatch(r"[\d+\-*/()]{1,200}", expression) is None:
        return None
    try:
        return _evaluate(ast.parse(expression, mode="eval").body, available)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.AST, available: Counter) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _evaluate(node.left, available), _evaluate(node.right, available)
        return _OPERATIONS[type(node.op)](left, right)
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and available[Fraction(node.value)] > 0:
        available[Fraction(node.value)] -= 1
        return Fraction(node.value)
    raise ValueError(f"an expression must be made of available numbers and + - * /, got {ast.dump(node)}")


SUDOKU_4X4 = TaskFormat(
    name="sudoku_4x4",
    description="a 4x4 Sudoku completed, any solution that keeps the given digits",
    read=_read_sudoku,
    judge=_judge_sudoku,
    max_new_tokens=24,
    instruction="Replace every 0 of a 4x4 Sudoku by a digit from 1 to 4, so that each row, each column and each 2x2 "
    "box holds every digit once.\n\n",
    num_shots=NUM_SHOTS,
)
COUNTDOWN = TaskFormat(
    name="countdown",
    description="steps of + - * / from the given numbers, each used once, to the last one",
    read=_read_countdown,
    judge=_judge_countdown,
    max_new_tokens=64,
    instruction="Reach the last number of the list from the numbers before it with + - * /. Use each of them exactly "
    "once.\n\n",
    num_shots=NUM_SHOTS,
)
