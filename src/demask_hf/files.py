"""Write files completely or not at all, check facts that must match, and resume JSON Lines after an interruption."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary name to write to, and move the file into place at the end; after an error nothing changes.

    Args:
        file (`Path`):
            The file to write; its folder must exist.
    """
    # Always the same name, so that the leftovers of a killed process are replaced.
    temporary = file.with_name(f"{file.name}.part")
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text, completely or not at all."""
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(file: Path) -> str:
    """Return the text of a file that this package did not write.

    Raises:
        ValueError: if it is not UTF-8.
        OSError: if it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(file)!r} must be a text in UTF-8, got other bytes at {error.start}.") from None


def write_json(file: Path, facts: dict[str, Any]) -> None:
    """Write facts of JSON types, completely or not at all."""
    write_text(file, json.dumps(facts, indent=2) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """Return the facts that [`write_json`] wrote."""
    return json.loads(file.read_text(encoding="utf-8"))


def keep_facts(file: Path, facts: dict[str, Any], kind: str) -> None:
    """Write the facts that a folder's results depend on, or check that they are the same as before.

    Args:
        file (`Path`):
            Where the facts are stored, in the folder of the results, which is created if it does not exist.
        facts (`dict`):
            Settings, data and fingerprints, of JSON types.
        kind (`str`):
            What the folder holds, for the message, such as "run" or "collection".

    Raises:
        ValueError: if the results in the folder depend on other facts.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, facts)
    kept = read_json(file)
    # In the form in which they are read again: JSON has lists where Python has tuples.
    facts = json.loads(json.dumps(facts))
    for name in sorted(kept.keys() | facts.keys()):
        if kept.get(name) != facts.get(name):
            raise ValueError(
                f"`out` must be a new folder or one of the same {kind}, got {str(file.parent)!r} with {name} "
                f"{kept.get(name)!r} instead of {facts.get(name)!r}."
            )


def append_lines(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append records to a file of JSON Lines in one write, after its last complete line, and flush it to disk."""
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        content = file.read_bytes()
        if content and not content.endswith(b"\n"):
            # Cut off when an earlier process was killed.
            os.truncate(file, content.rfind(b"\n") + 1)
    with open(file, "ab") as stream:
        stream.write(lines)
        stream.flush()
        os.fsync(stream.fileno())


def kept_lines(file: Path) -> list[dict[str, Any]]:
    """Return the records that [`append_lines`] wrote; a line without a line break was cut off and is ignored."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]


def parsed_lines(lines: Iterable[str], path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the records of the lines that are not empty, each with its place in words.

    Args:
        lines (`Iterable[str]`):
            Lines of a file that this package did not write.
        path (`Path`):
            Their file, for messages.

    Raises:
        ValueError: if a line is not JSON; the message names its number and the file.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield f"line {number}", parsed_json(line)
            except ValueError as error:
                raise ValueError(f"line {number} of {str(path)!r} must be a JSON object ({error}).") from None


def parsed_json(text: str) -> Any:
    """Return the value of a JSON text that this package did not write.

    Raises:
        ValueError: if it is not JSON, holds NaN, infinity or a number with thousands of digits, or is nested deeply.
    """
    try:
        return json.loads(text, parse_constant=_refused)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
