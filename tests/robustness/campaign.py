"""A campaign of wrong inputs: each must be refused in one clear sentence, at once, before anything expensive.

    python tests/robustness/campaign.py            prints the counts
    python tests/robustness/campaign.py --show     prints every input that was not refused clearly

An input is *clear* if it is refused by one of a few kinds of errors with one sentence that names an argument, a file
or an option. Otherwise it is *unclear* (another message), *internal* (another kind of error), *accepted*, or it
*hangs*.
"""

import argparse
import re
import signal
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


OUTCOMES = ("clear", "unclear", "internal", "accepted", "hangs")
_EXPECTED = (ValueError, TypeError, OSError, ImportError, NotImplementedError)
_MAX_LENGTH = 600
_MAX_SECONDS = 20
# A name in backticks, a path or a value in quotes, or an option.
_NAMES_SOMETHING = re.compile(r"`[^`]+`|'[^']+'|\"[^\"]+\"|--[a-z]|line \d+")


@dataclass(frozen=True)
class Case:
    """A wrong input.

    Args:
        kind (`str`): Group that it is counted in.
        name (`str`): What is wrong.
        run (`Callable`): Uses the input; must raise.
    """

    kind: str
    name: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Result:
    """What became of a case."""

    case: Case
    outcome: str
    said: str


class _LateError(Exception):
    pass


def _ring(*unused: Any) -> None:
    raise _LateError


def is_clear(message: str) -> bool:
    """Return whether a message is one sentence that names what is wrong."""
    return "\n" not in message and len(message) <= _MAX_LENGTH and bool(_NAMES_SOMETHING.search(message))


def outcome_of(case: Case) -> Result:
    """Run a case."""
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(_MAX_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.run()
    except _LateError:
        return Result(case, "hangs", f"longer than {_MAX_SECONDS} s")
    except _EXPECTED as error:
        said = f"{type(error).__name__}: {error}"
        return Result(case, "clear" if is_clear(str(error)) else "unclear", said)
    except (Exception, SystemExit) as error:
        return Result(case, "internal", f"{type(error).__name__}: {error}")
    finally:
        signal.alarm(0)
    return Result(case, "accepted", "")


def run(cases: Iterable[Case]) -> list[Result]:
    """Run cases in turn."""
    return [outcome_of(case) for case in cases]


def table(results: list[Result]) -> str:
    """Return the counts by kind as lines of text."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        counts[result.case.kind][result.outcome] += 1
        counts["all"][result.outcome] += 1
    total = counts.pop("all")
    rows = [("", "inputs", *OUTCOMES)]
    for kind, found in [*sorted(counts.items()), ("all", total)]:
        rows.append((kind, str(sum(found.values())), *(str(found[outcome]) for outcome in OUTCOMES)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def all_cases(folder: Path) -> list[Case]:
    """Return the whole catalogue; its files are written into an empty folder."""
    import command_inputs
    import file_inputs
    import generate_inputs

    commands, files = folder / "commands", folder / "files"
    commands.mkdir()
    files.mkdir()
    arguments = generate_inputs.cases(generate_inputs.make_model())
    return [*arguments, *command_inputs.cases(commands), *file_inputs.cases(files)]


def main(argv: list[str] | None = None) -> int:
    """Run the catalogue and print its counts; 1 if an input was not refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print what was not refused clearly")
    parser.add_argument("--kind", default="", help="only kinds that begin so")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        results = run(case for case in all_cases(Path(folder)) if case.kind.startswith(arguments.kind))
    if arguments.show:
        for result in results:
            if result.outcome != "clear":
                print(f"{result.outcome:9} {result.case.kind}: {result.case.name[:90]}: {result.said[:160]}")
    print(table(results))
    return int(any(result.outcome in ("internal", "accepted", "hangs") for result in results))


if __name__ == "__main__":
    sys.exit(main())
