"""GSM8K and MATH-500: word problems with a final number, and problems with a boxed answer."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from .base import TaskExample
from .formats import Question, TaskFormat, text_of


#: Digits of the longest number that is read: Python takes long for longer ones, and refuses thousands of digits.
MAX_DIGITS = 1000
_NUMBER = r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
# Markup without influence on the value: layout, fonts and units.
_REMOVED = re.compile(
    r"\\(?:left|right|displaystyle|quad|qquad)(?![a-zA-Z])|\\[,!;:>%$]|(?<!\\)\\ |\^\{?\\circ\}?|[\s$%~]|\.$"
)
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox|textit)\{([^{}]*)\}")
_UNIT = re.compile(r"(?<=[\d})])" + _TEXT.pattern + r"(?:\^\{?\d\}?)?$")


def final_number(text: str) -> Fraction | None:
    r"""Return the number after the first `####` of a text, else in its last `\boxed`, else its last number.

    A number of more than `MAX_DIGITS` characters is none.
    """
    marked = re.search(rf"####\s*({_NUMBER})", text)
    boxed = re.search(_NUMBER, last_boxed(text) or "")
    numbers = re.findall(_NUMBER, text)
    found = marked[1] if marked else boxed[0] if boxed else numbers[-1] if numbers else None
    if found is None or len(found) > MAX_DIGITS:
        return None
    return Fraction(found.replace(",", "").replace("$", ""))


def last_boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{...}` (or `\fbox`) of a text holds, its braces matched; `None` without one."""
    starts = list(re.finditer(r"\\(?:boxed|fbox)\s*\{", text))
    if not starts:
        return None
    start, depth = starts[-1].end(), 1
    for place in range(start, len(text)):
        is_escaped = text[place - 1] == "\\"
        if not is_escaped:
            depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return None


def are_equivalent(answer: str, reference: str) -> bool:
    r"""Return whether two answers in LaTeX are written alike, or are the same rational number.

    Layout, fonts, units in `\text`, degree, dollar and percent signs, forms of fractions and roots, thousands
    separators and a leading "x=" make no difference. Nothing is solved, expanded or reordered: "1+x" is not "x+1",
    "1/2" is not "3/6" inside a longer expression, and a set in another order is another set.

    Example:

    ```python
    >>> are_equivalent(r"\dfrac12", "0.5"), are_equivalent("x+1", "1+x")
    (True, False)

    ```
    """
    answer, reference = normalised(answer), normalised(reference)
    if answer == reference:
        return True
    numbers = _rational(answer), _rational(reference)
    return None not in numbers and numbers[0] == numbers[1]


def normalised(answer: str) -> str:
    """Return an answer in one way of writing it."""
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", _REMOVED.sub("", answer.strip()))
    # A unit follows the value at the end of an answer; a word alone is the answer.
    text = _TEXT.sub(r"\1", _UNIT.sub("", text))
    text = re.sub(r"\\(?:leq|le)(?![a-zA-Z])", r"\\leq", re.sub(r"\\(?:geq|ge)(?![a-zA-Z])", r"\\geq", text))
    text = re.sub(r"^[a-zA-Z](?:\\in|=)", "", text)
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", re.sub(r"\\frac\{([^{}]*)\}(\d)", r"\\frac{\1}{\2}", text))
    text = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", text)
    text = re.sub(r"^(-?)(\d+)/(\d+)$", r"\1\\frac{\2}{\3}", text)
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    return text


def _rational(text: str) -> Fraction | None:
    """Return the value of a decimal number or of a fraction of whole numbers, if it is not too long to compute."""
    if len(text) > MAX_DIGITS:
        return None
    fraction = re.fullmatch(r"(-?)\\frac\{(-?\d+)\}\{(-?\d+)\}", text)
    if fraction and int(fraction[3]):
        value = Fraction(int(fraction[2]), int(fraction[3]))
        return -value if fraction[1] else value
    return Fraction(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text) else None


def _read_gsm8k(record: dict[str, Any], path: Path) -> Question:
    question, answer = text_of(record, "question"), text_of(record, "answer")
    number = re.search(rf"####\s*({_NUMBER})", answer)
    if number is None or final_number(answer) is None:
        raise ValueError(
            f"must have an `answer` with a number of at most {MAX_DIGITS} digits after ####, got {answer[-40:]!r}."
        )
    request = f"{question}\n\nReason step by step. Write the final number on a line of its own, after ####."
    return Question(f"Question: {question}\nAnswer:", f" {answer}", {"number": str(final_number(answer))}, request)


def _judge_gsm8k(example: TaskExample, text: str) -> bool:
    return final_number(text) == Fraction(example.metadata["number"])


def _read_math500(record: dict[str, Any], path: Path) -> Question:
    problem, solution = text_of(record, "problem"), text_of(record, "solution")
    answer = text_of(record, "answer") if "answer" in record else last_boxed(solution)
    if answer is None:
        raise ValueError("must have an `answer`, or a `solution` with a \\boxed one, got neither.")
    facts: dict[str, Any] = {name: record[name] for name in ("level", "type", "subject") if name in record}
    request = f"{problem}\n\nReason step by step. Put the final answer in \\boxed{{}}."
    return Question(f"Problem:\n{problem}\n\nSolution:\n", solution, {"answer": answer, **facts}, request)


def _judge_math500(example: TaskExample, text: str) -> bool:
    answer = last_boxed(text)
    return answer is not None and are_equivalent(answer, example.metadata["answer"])


GSM8K = TaskFormat(
    name="gsm8k",
    description="the final number of a word problem",
    read=_read_gsm8k,
    judge=_judge_gsm8k,
    max_new_tokens=256,
    stop_strings=("Question:",),
)
MATH500 = TaskFormat(
    name="math500",
    description="the boxed answer of a mathematical problem, written alike up to layout",
    read=_read_math500,
    judge=_judge_math500,
    max_new_tokens=512,
    stop_strings=("Problem:",),
)
