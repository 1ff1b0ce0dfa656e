"""Run programs written by a model in separate processes, with limits on time and memory.

This guards against accidents, not against attacks: a program can read and write whatever the user can. Run it in a
container or a virtual machine if the model is not trusted.
"""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from . import confined


TIMEOUT_SECONDS = 10.0
MEMORY_BYTES = 2**30


def isolation() -> dict[str, bool]:
    """Return which restrictions on programs this system supports.

    Returns:
        `dict[str, bool]`:
            - `time`: programs that run too long are killed; wherever programs can be run;
            - `memory`: the address space of each of its processes is limited; on Linux;
            - `network`: programs have no network; on Linux, if `unshare` may create namespaces;
            - `processes`: everything that a program starts ends with it, even outside its process group; as `network`;
            - `files`: never: a program starts in its own empty folder, but can read and write elsewhere.
    """
    has_namespaces = bool(_namespaces())
    return {
        "time": os.name == "posix",
        "memory": sys.platform == "linux",
        "network": has_namespaces,
        "processes": has_namespaces,
        "files": False,
    }


def run_program(program: str, timeout_seconds: float = TIMEOUT_SECONDS, memory_bytes: int = MEMORY_BYTES) -> str:
    """Run a Python program in a separate process, in a temporary folder, with an empty environment.

    Args:
        program (`str`):
            The source code. Its output is discarded.
        timeout_seconds (`float`, *optional*, defaults to 10.0):
            Time after which it is killed with everything that it started, in seconds, above 0.
        memory_bytes (`int`, *optional*, defaults to 1 GiB):
            Address space that each of its processes may use, in bytes.

    Returns:
        `str`: "passed" if it ran to its last line, "failed", or "timed out".

    Raises:
        ValueError: if `timeout_seconds` is not above 0.
        OSError: if the system has no limits for processes, such as Windows.
    """
    if not timeout_seconds > 0:
        raise ValueError(f"`timeout_seconds` must be above 0, got {timeout_seconds}.")
    if os.name != "posix":
        raise OSError(f"programs must be run on a system with limits for processes, got {os.name}.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "program.py")
        # A model may write half a surrogate pair, which cannot be stored in a file.
        path.write_text(program, encoding="utf-8", errors="replace")
        passed_status = random.SystemRandom().randrange(100, 250)
        # Isolated mode: neither the folder nor environment variables extend what can be imported.
        command = [*_namespaces(), sys.executable, "-I", confined.__file__, str(path), str(passed_status)]
        command += [str(math.ceil(timeout_seconds) + 1), str(memory_bytes)]
        status = _wait(command, folder, timeout_seconds)
    if status is None:
        return "timed out"
    return "passed" if status == passed_status else "failed"


def _wait(command: list[str], folder: str, timeout_seconds: float) -> int | None:
    """Return the exit status, or `None` if time ran out."""
    environment = {"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"}
    # One thread each, because the number of threads is limited, too.
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    silence: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **silence)
    try:
        return process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Also ends processes that a finished program left running.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@cache
def _namespaces() -> tuple[str, ...]:
    """Return the command prefix that isolates network and processes, or nothing if it is not available."""
    unshare = shutil.which("unshare")
    if sys.platform != "linux" or unshare is None:
        return ()
    command = (unshare, "--user", "--net", "--pid", "--fork", "--kill-child", "--")
    tried = subprocess.run([*command, sys.executable, "-I", "-c", ""], capture_output=True, check=False)
    return command if tried.returncode == 0 else ()
