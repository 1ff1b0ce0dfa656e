"""Run programs written by a model, and the tests that judge them, in separate processes that are shut in.

What this keeps in and what it does not is written in SECURITY.md.
"""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any

from ..validation import check_count, check_interval
from . import confined
from .confined.namespaces import NOT_CONFINED
from .confined.roles import PASSED


TIMEOUT_SECONDS = 10.0
MEMORY_BYTES = 2**30
UNCONFINED = "unconfined"
# The folder becomes a package of its own, because importing ours takes seconds. In isolated mode neither the working
# folder nor environment variables extend what can be imported.
_START = """
import sys
from importlib import util

spec = util.spec_from_file_location("confined", sys.argv[1])
sys.modules["confined"] = util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["confined"])
from confined.process import main

main()
"""
_COMMAND = ("-I", "-c", _START, confined.__file__)


def isolation() -> dict[str, bool]:
    """Return which restrictions on programs this system supports.

    Returns:
        `dict[str, bool]`:
            - `time`: programs that run too long are killed; wherever programs can be run;
            - `memory`: the address space of each of its processes is limited; on Linux;
            - `network`: programs have no network; on Linux, where namespaces may be created;
            - `processes`: a program sees no other processes, and everything that it starts ends with it, and with this
              process; as `network`;
            - `files`: a program sees the system's programs and libraries and those of Python, read-only, and an empty
              folder that it may fill; as `network`.
    """
    is_confined = not _obstacle()
    return {
        "time": os.name == "posix",
        "memory": sys.platform == "linux",
        "network": is_confined,
        "processes": is_confined,
        "files": is_confined,
    }


def check_execution(allowed: bool | str) -> None:
    """Check that programs can be run as allowed, see [`load_task`].

    Args:
        allowed (`bool` or `str`):
            `True` for confined programs only, or "unconfined".

    Raises:
        ValueError: if `allowed` is something else.
        OSError: if the system cannot run programs so.
    """
    if allowed is not True and allowed != UNCONFINED:
        raise ValueError(f"`allow_code_execution` must be False, True or {UNCONFINED!r}, got {allowed!r}.")
    if os.name != "posix":
        raise OSError(f"programs must be run on a system with limits for processes, got {os.name}.")
    if allowed is True and _obstacle():
        raise OSError(
            f"programs must be confined, and this system does not allow it ({_obstacle()}); "
            f"`allow_code_execution={UNCONFINED!r}` runs them with your own rights, which needs a container or a "
            "virtual machine around it."
        )


def run_program(
    program: str,
    tests: str = "",
    timeout_seconds: float = TIMEOUT_SECONDS,
    memory_bytes: int = MEMORY_BYTES,
    confined: bool = True,
) -> str:
    r"""Run a Python program and its tests in two processes, each in an empty folder with an empty environment.

    The tests use the names of the program as if they followed it, but only calls and their results pass between the
    two: plain values are copied (so a test does not see that an argument was changed), other objects stay with the
    program and are equal to themselves only, and a test cannot pass a function of its own.

    Args:
        program (`str`):
            The source code. Its output is discarded.
        tests (`str`, *optional*, defaults to ""):
            Source code that decides. Without it the program is taken at its word that it ran to its last line.
        timeout_seconds (`float`, *optional*, defaults to 10.0):
            Time after which both are killed with everything that they started, in seconds, above 0.
        memory_bytes (`int`, *optional*, defaults to 1 GiB):
            Address space that each of their processes may use, in bytes.
        confined (`bool`, *optional*, defaults to `True`):
            Shut them in, see [`isolation`]; `False` runs them with limits on time and memory, and your rights.

    Returns:
        `str`: "passed" if program and tests ran to their last lines, "failed", or "timed out".

    Raises:
        ValueError: if `timeout_seconds` is not above 0, or `memory_bytes` is below 1.
        OSError: if the system cannot confine programs, or has no limits for processes, such as Windows.

    Example:

    ```python
    >>> run_program("def double(x):\n    return 2 * x", "assert double(2) == 4")  # doctest: +SKIP
    'passed'

    ```
    """
    check_interval("timeout_seconds", timeout_seconds, 0, open_low=True, open_high=True)
    check_count("memory_bytes", memory_bytes)
    check_execution(True if confined else UNCONFINED)
    limits = {"cpu_seconds": math.ceil(timeout_seconds) + 1, "memory_bytes": memory_bytes, "is_confined": confined}
    with ExitStack() as stack:
        ends = [stack.enter_context(end) for end in socket.socketpair()]
        candidate, judge = (
            stack.enter_context(_started({"role": role, "source": source, **limits}, end))
            for role, source, end in zip(("serve", "judge"), (program, tests), ends, strict=True)
        )
        # Only the two hold the connection now, so that each notices the end of the other.
        for end in ends:
            end.close()
        status = _status(judge, timeout_seconds)
        if status not in (PASSED, None) and confined and NOT_CONFINED in (status, _status(candidate, 1.0)):
            raise OSError("programs must be confined, and this system does not allow it any more.")
    if status is None:
        return "timed out"
    return "passed" if status == PASSED else "failed"


@contextmanager
def _started(
    task: dict[str, Any], connection: socket.socket, errors: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen]:
    """Yield a process that does a task, and kill it at the end with everything that it started.

    Args:
        task (`dict[str, Any]`): What `confined.process` reads.
        connection (`socket.socket`): To the other process.
        errors (`int`, *optional*): Where its messages go; by default nowhere.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as stdin:
        # A model may write half a surrogate pair, which is no source code.
        source = task["source"].encode("utf-8", errors="replace").decode()
        shown = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
        facts = {"parent": os.getpid(), "folder": folder, "shown": sorted(shown), "connection": connection.fileno()}
        stdin.write(json.dumps({**task, **facts, "source": source}).encode())
        stdin.seek(0)
        # One thread each, because the number of threads is limited, too.
        environment = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment |= {"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"}
        process = subprocess.Popen(
            [sys.executable, *_COMMAND],
            cwd=folder,
            env=environment,
            start_new_session=True,
            pass_fds=[connection.fileno()],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            yield process
        finally:
            # Also ends processes that a finished program left running.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _status(process: subprocess.Popen, timeout_seconds: float) -> int | None:
    """Return the exit status, or `None` if time ran out."""
    try:
        return process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        return None


@cache
def _obstacle() -> str:
    """Return why this system cannot confine programs, found out by trying, or nothing if it can."""
    if sys.platform != "linux":
        return f"it needs Linux, got {sys.platform}"
    task = {"role": "serve", "source": "", "is_confined": True, "cpu_seconds": 60, "memory_bytes": MEMORY_BYTES}
    ours, theirs = socket.socketpair()
    with ours, theirs, _started(task, theirs, subprocess.PIPE) as process:
        theirs.close()
        ours.settimeout(60)
        with suppress(OSError):
            if ours.recv(1):
                return ""
        os.killpg(process.pid, signal.SIGKILL)
        _, message = process.communicate()
    lines = message.decode(errors="replace").strip().split("\n")
    return lines[-1] or "a confined process does not start"
