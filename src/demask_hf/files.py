"""Write files completely or not at all, one writer a folder, check facts that must match, and resume JSON Lines."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar


_Parsed = TypeVar("_Parsed")
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this process may write",
}


class WriteError(OSError):
    """A file could not be written; the message is one sentence that says which and why."""


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn an error of the disk in this block into one sentence.

    Args:
        file (`Path`):
            What the block writes, for the message.

    Raises:
        WriteError: instead of another `OSError`.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        raise WriteError(
            f"{reason}: {file.name} was not written to {str(file.parent)!r}; what was complete is kept, and the "
            "same command, run again, resumes."
        ) from None


def disk_error(text: str) -> OSError:
    """Return the error of a disk that a library reports in words only."""
    code = next((code for code in _REASONS if os.strerror(code) in text), errno.EIO)
    return OSError(code, os.strerror(code))


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary name to write to, and move the file into place at the end; after an error nothing changes.

    Args:
        file (`Path`):
            The file to write; its folder must exist.

    Raises:
        WriteError: if the disk is full, or the file cannot be written for another reason.
    """
    # Always the same name, so that the leftovers of a killed process are replaced.
    temporary = file.with_name(f"{file.name}.part")
    with writing(file):
        try:
            yield temporary
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text, completely or not at all."""
    with replacing(file) as temporary:
        _write(temporary, "wb", text.encode())


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
    """Return the facts that [`write_json`] wrote.

    Raises:
        ValueError: if the file holds something else.
    """
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} must hold a JSON object ({error}).") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{str(file)!r} must hold a JSON object, got {type(facts).__name__}.")
    return facts


def keep_facts(file: Path, facts: dict[str, Any], kind: str, results: Iterable[str] = ()) -> None:
    """Write the facts that a folder's results depend on, or check that they are the same as before.

    Args:
        file (`Path`):
            Where the facts are stored, in the folder of the results, which is created if it does not exist.
        facts (`dict`):
            Settings, data and fingerprints, of JSON types.
        kind (`str`):
            What the folder holds, for the message, such as "run" or "collection".
        results (`Iterable[str]`, *optional*):
            Globs of the results in the folder, which may not be there without facts.

    Raises:
        ValueError: if the results in the folder depend on other facts, or on unknown ones.
    """
    if not file.exists():
        found = next((path for glob in results for path in file.parent.glob(glob)), None)
        if found is not None:
            raise ValueError(
                f"`out` must be a new folder or one of the same {kind}, got {str(file.parent)!r} with "
                f"{found.relative_to(file.parent).as_posix()} but without {file.name}, the facts that it depends on."
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, facts)
    check_facts(read_json(file), facts, f"folder or one of the same {kind}", str(file.parent))


def check_facts(kept: dict[str, Any], facts: dict[str, Any], allowed: str, place: str) -> None:
    """Refuse results that depend on other facts, and say which.

    Args:
        kept (`dict`):
            The facts of the results.
        facts (`dict`):
            The facts of what is asked for now.
        allowed (`str`):
            What `out` may be beside something new, for the message.
        place (`str`):
            Where the results are, for the message.

    Raises:
        ValueError: if the facts differ; the message names the first one that does.
    """
    # In the form in which they are read again: JSON has lists where Python has tuples.
    old, new = _flat(kept), _flat(json.loads(json.dumps(facts)))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise ValueError(
                f"`out` must be a new {allowed}, got {place!r} with {name} {old.get(name)!r} instead of "
                f"{new.get(name)!r}."
            )


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return facts without nesting: those of a dictionary have its name and a point before theirs."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat


def append_lines(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append records to a file of JSON Lines in one write, after its last complete line, and flush it to disk.

    Raises:
        WriteError: if the disk is full, or the file cannot be written for another reason.
    """
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        _remove_cut_line(file)
        _write(file, "ab", lines)


def _remove_cut_line(file: Path) -> None:
    """Remove what an earlier process had not finished writing when it ended."""
    if not file.exists() or not file.stat().st_size:
        return
    with open(file, "rb+") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read() != b"\n":
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)


def _write(file: Path, mode: str, content: bytes) -> None:
    """Write bytes and wait until they are on the disk; everything but tensors and figures goes through here."""
    with open(file, mode) as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def kept_lines(
    file: Path, parse: Callable[[Any], _Parsed] = lambda value: value, is_ordered: bool = False
) -> list[_Parsed]:
    """Return the records that [`append_lines`] wrote; a line without a line break was cut off and is ignored.

    Args:
        file (`Path`):
            The file; without one there are no records.
        parse (`Callable`, *optional*):
            Checks the value of a line and returns the record, or raises a `ValueError` that continues a sentence after
            the name of the line.
        is_ordered (`bool`, *optional*, defaults to `False`):
            Whether a line continues those before it, so that none of them can be removed alone.

    Raises:
        ValueError: if a line is broken; the message names its number and the file.
    """
    if not file.exists():
        return []
    records = []
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
        try:
            try:
                value = json.loads(line)
            except ValueError:
                raise ValueError(f"must be a JSON object, got {line[:40]!r}.") from None
            records.append(parse(value))
        except ValueError as error:
            advice = (
                "it and the lines after it, and the same command makes them"
                if is_ordered
                else ("the line, and the same command makes it")
            )
            raise ValueError(
                f"line {number} of {str(file)!r} {str(error).removesuffix('.')}: remove {advice} anew."
            ) from None
    return records


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


def code_version() -> str:
    """Return the version of this package."""
    # The package is imported before its files.
    return str(sys.modules[__name__.partition(".")[0]].__version__)
