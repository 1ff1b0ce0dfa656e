"""One process, or one launch of processes, writes to a folder at a time."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .files import read_json, write_json, writing


# Where launchers say which process of a launch this is.
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


@contextmanager
def locked(folder: Path, argument: str = "out", is_shared: bool = False) -> Iterator[None]:
    """Be the only process that writes to a folder in this block; a process that dies gives it back.

    Args:
        folder (`Path`):
            The folder, which is created if it does not exist.
        argument (`str`, *optional*, defaults to "out"):
            The argument that names it, for the message.
        is_shared (`bool`, *optional*, defaults to `False`):
            Whether the processes of one launch share the work: the first one then keeps others away for all of them.

    Raises:
        ValueError: if another process writes there; the message says which.
        WriteError: if nothing can be written there.
    """
    if is_shared and int(next((os.environ[name] for name in _RANKS if name in os.environ), 0)) > 0:
        yield
        return
    # Who holds the lock stands apart from it, because some versions empty its file when they try it.
    lock, holder = FileLock(folder / ".writer.lock", timeout=0), folder / ".writer.json"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with writing(folder / ".writer.lock"):
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(
                f"`{argument}` must be a folder that no other process writes to, got {str(folder)!r}, which "
                f"{_holder(holder)} uses."
            ) from None
    try:
        write_json(holder, {"process": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _holder(file: Path) -> str:
    """Return which process holds a lock, in words."""
    try:
        facts = read_json(file)
        return f"process {facts['process']} on {facts['host']}"
    except (OSError, ValueError, KeyError):
        # It has just started, or is about to end.
        return "another process"
