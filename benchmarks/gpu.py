"""Everything that only a GPU can tell, in calls of less than ten minutes: `make gpu OUT=runs/gpu`.

    python benchmarks/gpu.py --out runs/gpu --dry-run           # lists the calls with their limits; needs no GPU
    python benchmarks/gpu.py --out runs/gpu                     # all that are missing
    python benchmarks/gpu.py --out runs/gpu floor memory_int8   # these
    python benchmarks/gpu.py --out runs/gpu --document docs/performance.md

Each call is a process with a limit and writes OUT/NAME.json with hardware and versions. A call that has its file is
not run again; one that fails or takes too long leaves OUT/NAME.log, and the others go on. OUT/rows.md holds the
tables; `--document` puts them into a document, between "<!-- rows of make gpu -->" and "<!-- end of make gpu -->".
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from speed_common import environment

from demask_hf.files import read_json, read_text, write_json, write_text
from demask_hf.tables import Column, markdown_lines


HERE = Path(__file__).parent
LIMIT_SECONDS = 570
BEGIN, END = "<!-- rows of make gpu -->", "<!-- end of make gpu -->"


@dataclass(frozen=True)
class Call:
    """One measurement.

    Args:
        name (`str`): Its name and that of its file.
        title (`str`): What it tells.
        command (`str`): A script of this folder with its arguments; "pytest" runs the tests of the repository.
        limit_seconds (`int`): Time after which it is ended.
    """

    name: str
    title: str
    command: str
    limit_seconds: int = LIMIT_SECONDS

    def words(self, out: Path) -> list[str]:
        """Return the command line."""
        script, *words = self.command.split()
        if script == "pytest":
            return [sys.executable, "-m", "pytest", *words, f"--junitxml={out / self.name}.xml"]
        return [
            sys.executable,
            str(HERE / script),
            *words,
            "--device",
            "cuda",
            "--out",
            str(out / f"{self.name}.json"),
        ]


_7B = "--shapes 7b --dtype bfloat16"
CALLS = (
    Call("tests", "Tests that need a GPU", f"pytest -q -m gpu {HERE.parent / 'tests'}"),
    Call(
        "overhead",
        "Overhead of demask on a step",
        f"speed.py overhead {_7B} --lengths 256 1024 --batches 1 8 --steps 2",
    ),
    Call("compiled", "The same, compiled", f"speed.py overhead {_7B} --lengths 256 --steps 2 --rounds 5 --compile"),
    Call(
        "cuda_graphs",
        "The same with CUDA graphs",
        f"speed.py overhead {_7B} --lengths 256 --steps 2 --rounds 5 --compile reduce-overhead",
    ),
    Call(
        "cuda_graphs_tiny",
        "CUDA graphs on the shipped checkpoint",
        "speed.py overhead --shapes tiny --lengths 48 --batches 1 8 --rounds 15 --compile reduce-overhead",
    ),
    Call("floor", "A step against its floor", f"speed.py floor {_7B} --lengths 512 1024 --batches 1 8"),
    Call("share", "Parts of a step", f"speed.py share {_7B} --lengths 256 1024 2048 --rounds 3"),
    Call("caches", "Caches, blocks of 32", f"speed.py scaling {_7B} --lengths 256 1024 --batches 1 8 --rounds 2"),
    Call(
        "straightforward",
        "Against a straightforward implementation",
        "straightforward.py --shape 7b --dtype bfloat16 --length 1024 --batch 8 --steps 4",
    ),
    Call(
        "memory_bfloat16",
        "Memory in bfloat16",
        "memory.py --shapes 7b --formats bfloat16 --lengths 256 1024 4096 --batches 1 8 32",
    ),
    Call(
        "memory_int8",
        "Memory with int8 weights",
        "memory.py --shapes 7b --formats int8 --lengths 256 1024 --batches 1 8",
    ),
    Call(
        "row_identity",
        "Rows of a batch against the row alone",
        "row_identity.py decoding --rounds 1 --dtypes bfloat16 --strategies threshold demask",
    ),
    Call("row_identity_forward", "What changes the logits of a row", "row_identity.py forward"),
    Call("serving", "Serving, shipped checkpoint", "serving.py --clients 1 4 16 32"),
    Call("serving_100m", "Serving, 100 million weights", "serving.py --shape 100m --clients 1 4 16 32"),
)


def is_done(call: Call, out: Path) -> bool:
    """Return whether a call has its result."""
    return (out / f"{call.name}.json").is_file()


def run_call(call: Call, out: Path) -> str:
    """Run a call and return "done", or why it is not."""
    log = out / f"{call.name}.log"
    with log.open("wb") as stream:
        # A group of its own, because some scripts start processes, too.
        process = subprocess.Popen(call.words(out), stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(call.limit_seconds)
        except subprocess.TimeoutExpired:
            return f"took more than {call.limit_seconds} s, see {log}"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code:
        return f"ended with exit code {code}, see {log}"
    if call.command.startswith("pytest"):
        write_json(out / f"{call.name}.json", {**environment("cuda"), "rows": verdicts(out / f"{call.name}.xml")})
    return "done"


def verdicts(file: Path) -> list[dict[str, str]]:
    """Return test and verdict from what pytest wrote."""
    rows = []
    for case in ElementTree.parse(file).iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        rows.append({"test": str(case.get("name")), "verdict": kinds[0] if kinds else "passed"})
    return rows


def rows_of(call: Call, out: Path) -> list[str]:
    """Return the table of a call with hardware and versions, in Markdown."""
    facts = read_json(out / f"{call.name}.json")
    rows: list[dict[str, Any]] = facts.pop("rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [Column(name, lambda row, name=name: _shown(row.get(name))) for name in names]
    place = ", ".join(f"{name} {value}" for name, value in facts.items())
    return [f"**{call.title}** ({place})", "", *markdown_lines(columns, rows), "", f"`{call.command}`", ""]


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def insert(document: Path, lines: Sequence[str]) -> None:
    """Replace what stands between the two marks of a document.

    Raises:
        ValueError: if a mark is missing.
    """
    text = read_text(document)
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"`--document` must have the lines {BEGIN} and {END}, got {str(document)!r}.")
    write_text(document, "\n".join([before + BEGIN, "", *lines, END + after]))


def main(argv: list[str] | None = None) -> int:
    """Run the missing calls and write the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="calls to run; by default all")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true", help="list the calls and run none")
    parser.add_argument("--document", type=Path, help="also put the tables into this document")
    arguments = parser.parse_args(argv)
    known = {call.name: call for call in CALLS}
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"NAME must be among {', '.join(known)}, got {unknown[0]}.")
    chosen = [known[name] for name in arguments.names] or list(CALLS)
    if arguments.dry_run:
        for call in chosen:
            state = "done" if is_done(call, arguments.out) else f"at most {call.limit_seconds} s"
            print(f"{call.name:<21} {state:<15} {call.title}: {call.command}")
        return 0
    missing = [call for call in chosen if not is_done(call, arguments.out)]
    if missing and not torch.cuda.is_available():
        print("gpu.py: error: this machine must have a GPU that torch can use, got none.", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    has_failed = False
    for call in missing:
        print(f"{call.name}: at most {call.limit_seconds} s ...", flush=True)
        state = run_call(call, arguments.out)
        has_failed |= state != "done"
        print(f"{call.name}: {state}", flush=True)
    lines = [line for call in CALLS if is_done(call, arguments.out) for line in rows_of(call, arguments.out)]
    write_text(arguments.out / "rows.md", "\n".join(lines) + "\n")
    if arguments.document is not None:
        insert(arguments.document, lines)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
