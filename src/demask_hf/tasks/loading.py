"""Load a task by name: generated from a seed, or read from a published file."""

import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..validation import check_choice, check_count
from .base import Task, TaskExample
from .execution import UNCONFINED, check_execution
from .families import FAMILIES
from .formats import Question, TaskFormat
from .mathematics import GSM8K, MATH500
from .parallelbench import PARALLELBENCH
from .planning import COUNTDOWN, SUDOKU_4X4
from .programs import HUMANEVAL, MBPP


FORMATS: dict[str, TaskFormat] = {
    format_.name: format_ for format_ in (SUDOKU_4X4, COUNTDOWN, GSM8K, MATH500, HUMANEVAL, MBPP, PARALLELBENCH)
}
NUM_GENERATED = 200


def task_names() -> dict[str, str]:
    """Return the descriptions of all tasks by name: the generated families, then the formats of files."""
    families = {name: family.description for name, family in FAMILIES.items()}
    return families | {name: format_.description for name, format_ in FORMATS.items()}


def load_task(
    name: str,
    path: str | Path | None = None,
    split: str = "test",
    num_examples: int | None = None,
    seed: int = 0,
    num_shots: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    allow_code_execution: bool | str = False,
) -> Task:
    """Load a task.

    Args:
        name (`str`):
            One of `task_names()`.
        path (`str` or `Path`, *optional*):
            The published file, for tasks that are not generated: JSON Lines, also gzipped, or a JSON list.
        split (`str`, *optional*, defaults to "test"):
            "train", "validation" or "test" of a generated family; a file is one split.
        num_examples (`int`, *optional*):
            Number of prompts; by default 200 generated ones, or all of a file. A smaller number is drawn from the
            file.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draw.
        num_shots (`int`, *optional*):
            Records at the start of the file that are shown before each question and not asked; by default as in the
            published setting.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Its chat template is used for prompts; by default prompts are plain text.
        allow_code_execution (`bool` or `str`, *optional*, defaults to `False`):
            Must be `True` for tasks that run the answers as programs, which are shut in, see `isolation`; with
            "unconfined" they have your own rights.

    Returns:
        [`Task`]

    Raises:
        ValueError: if an argument or a record of the file is wrong; the message names the line.
        OSError: if the file cannot be read, or programs must be confined and cannot be.

    Example:

    ```python
    >>> from demask_hf.tasks import load_task

    >>> task = load_task("pairs", num_examples=3)
    >>> example = task.examples[0]
    >>> task.check(example, example.answer), task.check(example, "9+9")
    (True, False)

    ```
    """
    check_choice("name", name, task_names())
    if num_examples is not None:
        check_count("num_examples", num_examples)
    if name in FAMILIES:
        _check_left_out(name, path=path, num_shots=num_shots, tokenizer=tokenizer)
        return FAMILIES[name].task(split, num_examples or NUM_GENERATED, seed)
    format_ = FORMATS[name]
    file = _checked_file(format_, path, split, tokenizer, allow_code_execution)
    questions = format_.questions(file)
    shots, questions = _split_shots(questions, format_.num_shots if num_shots is None else num_shots)
    if num_examples is not None:
        questions = _drawn(questions, num_examples, seed)
    examples = tuple(format_.example(question, shots, tokenizer) for question in questions)
    judge, stop_strings = (
        _judge_of(format_, allow_code_execution),
        () if tokenizer is not None else format_.stop_strings,
    )
    return Task(name, format_.description, examples, judge, format_.max_new_tokens, stop_strings)


def _check_left_out(name: str, **given: Any) -> None:
    """Raise a `ValueError` if a generated family is given an argument of files."""
    for argument, value in given.items():
        if value is not None:
            shown = type(value).__name__ if argument == "tokenizer" else repr(value)
            raise ValueError(f"`{argument}` must be left out for {name}, which is generated, got {shown}.")


def _checked_file(
    format_: TaskFormat,
    path: str | Path | None,
    split: str,
    tokenizer: PreTrainedTokenizerBase | None,
    allow_code_execution: bool | str,
) -> Path:
    """Return the file of a format after checking what was given with it."""
    if path is None:
        raise ValueError(f"`path` must be given for {format_.name}, whose file is not part of the package, got None.")
    if split != "test":
        raise ValueError(f"`split` must be test for {format_.name}, as a file is one split, got {split!r}.")
    if format_.unconfined_judge is not None:
        if allow_code_execution is False:
            raise ValueError(
                f"`allow_code_execution` must be True for {format_.name}, which runs what the model wrote, got False."
            )
        check_execution(allow_code_execution)
    if tokenizer is not None and tokenizer.chat_template is None:
        raise ValueError("`tokenizer` must have a chat template, got one without.")
    return Path(path)


def _judge_of(format_: TaskFormat, allow_code_execution: bool | str) -> Callable[[TaskExample, str], bool]:
    """Return the judge of a format, which runs programs unconfined only where this was allowed, and with a warning."""
    if format_.unconfined_judge is None or allow_code_execution != UNCONFINED:
        return format_.judge
    warnings.warn(
        f"Programs of {format_.name} run unconfined: each can do with this machine and its network what you can.",
        stacklevel=3,
    )
    return format_.unconfined_judge


def _split_shots(questions: list[Question], num_shots: int) -> tuple[list[Question], list[Question]]:
    """Return the worked examples and the questions that are asked, each of them once."""
    if not isinstance(num_shots, int) or isinstance(num_shots, bool) or not 0 <= num_shots < len(questions):
        raise ValueError(f"`num_shots` must be in [0, {len(questions)}) for this file, got {num_shots!r}.")
    _check_different(questions[num_shots:])
    return questions[:num_shots], questions[num_shots:]


def _check_different(questions: list[Question]) -> None:
    """Raise a `ValueError` if a question is asked twice; records are kept by their prompts."""
    found: dict[str, Question] = {}
    for question in questions:
        key = "\n".join([*(f"{shot.text}{shot.answer}" for shot in question.shots), question.text])
        earlier = found.setdefault(key, question)
        if earlier is not question:
            raise ValueError(f"{question.place} must have a question of its own, got that of {earlier.place}.")


def _drawn(questions: list[Question], num_examples: int, seed: int) -> list[Question]:
    """Return some of the questions in their order."""
    if num_examples > len(questions):
        raise ValueError(f"`num_examples` must be at most {len(questions)} for this file, got {num_examples}.")
    return [questions[index] for index in sorted(Random(seed).sample(range(len(questions)), num_examples))]
