"""ParallelBench's waiting lines and puzzles: records with `input`, `answer`, a prompt and the name of a metric.

Prompt and metric are in the record itself, as in the Hub's dataset, or in `task_config.yaml` next to the file, under
the file's name, as the benchmark writes them.
"""

import re
import string
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..files import parsed_json
from .base import TaskExample
from .formats import Question, TaskFormat, shown
from .planning import first_grid
from .sudoku import solves


CONFIG = "task_config.yaml"
Judge = Callable[[str, dict[str, Any], Any], bool]


def listed(text: str) -> list[str]:
    """Return the items between the last "[" of a text and the next "]", without quotes."""
    inside = text.rpartition("[")[2].partition("]")[0]
    return [item.strip(" \n\"'") for item in inside.split(",") if item.strip()]


def _is_list(text: str, asked: dict[str, Any], answer: Any) -> bool:
    return listed(text) == listed(answer)


def _is_shuffled(text: str, asked: dict[str, Any], answer: Any) -> bool:
    people = listed(text)
    return Counter(people) == Counter(answer["input"]) and people != answer["input"]


def _is_inserted(text: str, asked: dict[str, Any], answer: Any) -> bool:
    people, before = listed(text), answer["input"]
    return any(people == [*before[:place], answer["word"], *before[place:]] for place in range(len(before) + 1))


def _is_removed(text: str, asked: dict[str, Any], answer: Any) -> bool:
    people, before = listed(text), answer["input"]
    return any(people == [*before[:place], *before[place + 1 :]] for place in range(len(before)))


def _is_replaced(text: str, asked: dict[str, Any], answer: Any) -> bool:
    people, before = listed(text), answer["input"]
    return any(people == [*before[:place], answer["word"], *before[place + 1 :]] for place in range(len(before)))


def _is_latin_square(text: str, asked: dict[str, Any], answer: Any) -> bool:
    symbols = set(answer["symbols"])
    lines = [[cell.strip() for cell in line.split(",")] for line in text.split("\n")]
    # Text around the square contains other cells.
    rows = [row for row in lines if len(row) == len(symbols) and set(row) == symbols][: len(symbols)]
    return len(rows) == len(symbols) and all(set(column) == symbols for column in zip(*rows, strict=True))


def _is_sudoku(text: str, asked: dict[str, Any], answer: Any) -> bool:
    return solves(re.sub(r"\s", "", asked["puzzle"]).replace("_", "0"), first_grid(text))


# By the names of ParallelBench's metrics, in their lenient forms.
METRICS: dict[str, Judge] = {
    "list_match_score": _is_list,
    "list_shuffle_score": _is_shuffled,
    "list_random_insert_score": _is_inserted,
    "list_random_remove_score": _is_removed,
    "list_random_replace_score": _is_replaced,
    "latin_square_score": _is_latin_square,
    "sudoku_score": _is_sudoku,
}


@cache
def _config(path: Path) -> dict[str, Any]:
    """Return prompt and metric of a file from the configuration next to it, or nothing."""
    config = path.parent / CONFIG
    if not config.is_file():
        return {}
    try:
        tasks = yaml.safe_load(config.read_text(encoding="utf-8"))
        found = [dict(task) for name, task in tasks.items() if name.split("/")[-1] == path.stem]
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, RecursionError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(
            f"must have a {CONFIG} of tasks by name next to its file, got a broken one ({reason})."
        ) from None
    return found[0] if found else {}


def _unpacked(value: Any) -> Any:
    """Return a field of the Hub's records, in which objects are JSON texts; other texts are unchanged."""
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    try:
        return parsed_json(value)
    except ValueError:
        return value


def _read(record: dict[str, Any], path: Path) -> Question:
    own: dict[str, Any] = {name: record[name] for name in ("prompt", "metric") if name in record}
    config = {**_config(path), **own}
    template, metric = config.get("prompt"), config.get("metric")
    if not isinstance(template, str):
        raise ValueError(f"must have a `prompt`, or {CONFIG} next to the file must have one for it, got neither.")
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(f"must have as `metric` one of {', '.join(METRICS)}, got {shown(metric)}.")
    asked, answer = _unpacked(record.get("input")), _unpacked(record.get("answer"))
    if not isinstance(asked, dict):
        raise ValueError(f"must have an object `input`, got {shown(asked)}.")
    try:
        question = _question(template, metric, asked, answer)
        is_right = METRICS[metric](question.answer, asked, answer)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"must have the fields of its prompt and its metric {metric}, got {shown(error)}.") from None
    if not is_right:
        raise ValueError(f"must have an `answer` that its metric {metric} counts as right, got {shown(answer)}.")
    return question


def _question(template: str, metric: str, asked: dict[str, Any], answer: Any) -> Question:
    """Fill the template of a record, and of the worked examples in it."""
    for _, name, form, conversion in string.Formatter().parse(template):
        # Nothing but the fields themselves: "{context:>9999999999}" would fill the memory.
        if name is not None and (name not in asked or form or conversion):
            raise KeyError(name)
    text = template.format(**asked).replace("\\n", "\n")
    right = answer if isinstance(answer, str) else answer["example"]
    shots = [_question(template, metric, shot["input"], shot["answer"]) for shot in asked.get("icl_examples") or ()]
    facts = {"metric": metric, "input": asked, "answer": answer}
    return Question(f"{text}\n\n", right, facts, text, tuple(shots))


def _judge(example: TaskExample, text: str) -> bool:
    facts = example.metadata
    return METRICS[facts["metric"]](text, facts["input"], facts["answer"])


PARALLELBENCH = TaskFormat(
    name="parallelbench",
    description="a waiting line changed as asked, or a puzzle solved",
    read=_read,
    judge=_judge,
    max_new_tokens=64,
    stop_strings=("\n\n",),
)
