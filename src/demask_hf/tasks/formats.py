"""Formats of published files: records, the question of each, and the check of an answer."""

import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..files import parsed_json, parsed_lines
from .base import TaskExample


#: Bytes that a file may hold once it is unpacked: a small one may unpack to more than the memory of a machine.
MAX_FILE_BYTES = 2**28


@dataclass(frozen=True)
class Question:
    """The question of a record.

    Args:
        text (`str`):
            The question as plain text, up to the start of the answer.
        answer (`str`):
            A valid answer, as it would follow the text.
        metadata (`dict[str, Any]`, *optional*):
            What the checker needs.
        request (`str`, *optional*):
            The question as a turn of a chat; by default the text.
        shots (`tuple[Question, ...]`, *optional*):
            Worked examples in the record.
        place (`str`, *optional*):
            Where it stands in its file, for messages.
    """

    text: str
    answer: str
    metadata: dict[str, Any] = field(default_factory=dict)
    request: str | None = None
    shots: tuple["Question", ...] = ()
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class TaskFormat:
    """A format of published files.

    Args:
        name (`str`):
            Name of the task.
        description (`str`):
            What a right answer is, in one sentence.
        read (`Callable[[dict[str, Any], Path], Question]`):
            Reads a record of a file; raises a `ValueError` whose message continues after the name of the record.
        judge (`Callable[[TaskExample, str], bool]`):
            Returns whether a text is a right answer; an answer that is a program is run confined.
        max_new_tokens (`int`):
            Length of the answers in tokens.
        instruction (`str`, *optional*, defaults to ""):
            Text before the first question, and in a chat before each one.
        stop_strings (`tuple[str, ...]`, *optional*):
            Texts that end an answer outside a chat.
        num_shots (`int`, *optional*, defaults to 0):
            Records at the start of the file that are shown with their answers and not asked.
        unconfined_judge (`Callable[[TaskExample, str], bool]`, *optional*):
            For formats whose answers are programs: the judge that runs them unconfined.
    """

    name: str
    description: str
    read: Callable[[dict[str, Any], Path], Question]
    judge: Callable[[TaskExample, str], bool]
    max_new_tokens: int
    instruction: str = ""
    stop_strings: tuple[str, ...] = ()
    num_shots: int = 0
    unconfined_judge: Callable[[TaskExample, str], bool] | None = None

    def questions(self, path: Path) -> list[Question]:
        """Read all records of a file.

        Raises:
            ValueError: if there are none, or one is broken; the message names its place, the file and the rule.
            OSError: if the file cannot be read.
        """
        questions = []
        for place, record in _records(path):
            try:
                if not isinstance(record, dict):
                    raise ValueError(f"must be a JSON object, got {type(record).__name__}.")
                questions.append(replace(self.read(record, path), place=f"{place} of {str(path)!r}"))
            except ValueError as error:
                raise ValueError(f"{place} of {str(path)!r} {error}") from None
        if not questions:
            raise ValueError(f"`path` must hold at least one record, got none in {str(path)!r}.")
        return questions

    def example(
        self, question: Question, shots: list[Question], tokenizer: PreTrainedTokenizerBase | None
    ) -> TaskExample:
        """Return a question after its worked examples, as plain text or in the tokenizer's chat template."""
        shots = [*shots, *question.shots]
        if tokenizer is None:
            shown = "".join(f"{shot.text}{shot.answer}\n\n" for shot in shots)
            prompt = self.instruction + shown + question.text
        else:
            turns = []
            for asked in (*shots, question):
                turns.append({"role": "user", "content": self.instruction + (asked.request or asked.text)})
                turns.append({"role": "assistant", "content": asked.answer.strip()})
            prompt = str(tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True))
        return TaskExample(self.name, prompt, question.answer, question.metadata)


def text_of(record: dict[str, Any], *names: str) -> str:
    """Return the first of these fields that the record has.

    Raises:
        ValueError: if it has none of them, or one that is not a text with at least one character.
    """
    value = next((record[name] for name in names if name in record), None)
    if not isinstance(value, str) or not value:
        asked = " or ".join(f"`{name}`" for name in names)
        raise ValueError(f"must have a text {asked} of at least one character, got {shown(value)}.")
    return value


def texts_of(record: dict[str, Any], name: str) -> list[str]:
    """Return a field that is a list of texts; none are an empty list.

    Raises:
        ValueError: if it is something else.
    """
    value = record.get(name) or []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"must have as `{name}` a list of texts, got {shown(value)}.")
    return value


def shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the records of JSON Lines, gzipped or not, or of a JSON list, each with its place in words."""
    content = _content(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {number} of {str(path)!r} must be text in UTF-8 ({error.reason}).") from None
    lines = io.StringIO(text, newline=None).readlines()
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("["):
        try:
            records = parsed_json("".join(lines))
        except ValueError as error:
            place = f"line {error.lineno} of " if isinstance(error, json.JSONDecodeError) else ""
            raise ValueError(f"{place}{str(path)!r} must continue the JSON list ({error}).") from None
        yield from ((f"record {number}", record) for number, record in enumerate(records, start=1))
    else:
        yield from parsed_lines(lines, path)


def _content(path: Path) -> bytes:
    """Return the bytes of a file, unpacked.

    Raises:
        ValueError: if it is not gzipped although its name says so, is cut off, or holds more than `MAX_FILE_BYTES`.
        OSError: if it cannot be read.
    """
    if not os.path.isfile(path):
        reason = "is none" if os.path.exists(path) else "does not exist"
        raise OSError(f"`path` must be a file, got {str(path)!r}, which {reason}.")
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"`path` must be a whole gzipped file if it ends in .gz, got {str(path)!r} ({error})."
        ) from None
    except OSError as error:
        raise OSError(f"`path` must be a readable file, got {str(path)!r} ({error.strerror or error}).") from None
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"`path` must hold at most {MAX_FILE_BYTES} bytes once unpacked, got more in {str(path)!r}.")
    return content
