"""Files that are whole or not there, facts that must match, and JSON Lines that resume after an interruption."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield another name to write to, and put what was written in place at the end; after an error nothing changes.

    Args:
        file (`Path`):
            The file to write; its folder must be there.
    """
    # Always the same name, so that what a killed process left behind is replaced.
    temporary = file.with_name(f"{file.name}.part")
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(file: Path, facts: dict[str, Any]) -> None:
    """Write facts of JSON types, whole or not at all."""
    write_text(file, json.dumps(facts, indent=2) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """Return the facts that [`write_json`] wrote."""
    return json.loads(file.read_text(encoding="utf-8"))


def keep_facts(file: Path, facts: dict[str, Any], kind: str) -> None:
    """Write what a folder's results are made with, or check that they were made with the same.

    Args:
        file (`Path`):
            Where the facts are kept, in the folder of the results, which is made if it is not there.
        facts (`dict`):
            Settings, data and fingerprints; of JSON types.
        kind (`str`):
            What the folder holds, for the message, such as "run" or "collection".

    Raises:
        ValueError: if the folder holds results that were made with something else.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, facts)
    kept = read_json(file)
    # As they are read again: JSON has lists where Python has tuples.
    facts = json.loads(json.dumps(facts))
    for name in sorted(kept.keys() | facts.keys()):
        if kept.get(name) != facts.get(name):
            raise ValueError(
                f"`out` must be a new folder or one of the same {kind}, got {str(file.parent)!r} with {name} "
                f"{kept.get(name)!r} instead of {facts.get(name)!r}."
            )


def append_lines(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Add records to a file of JSON Lines in one write, after its last whole line, and wait for the disk."""
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
    """Return the records that [`append_lines`] wrote; a line without its end was cut off and does not count."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]


def parsed_lines(lines: Iterable[str], path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the records of JSON Lines that are not empty, each with the words that say where it stands.

    Args:
        lines (`Iterable[str]`):
            Lines that somebody else wrote.
        path (`Path`):
            Their file, for the message.

    Raises:
        ValueError: if a line is not JSON; the message has its number and the file.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} of {str(path)!r} must be a JSON object ({error}).") from None
