"""Where a confined process begins: it reads what it is to do, shuts itself in, and takes its role."""

import json
import os
import resource
import socket
import sys

from .namespaces import NOT_CONFINED, confine, die_with_parent
from .roles import judge, serve


MAX_FILE_BYTES = 16 * 2**20
MAX_PROCESSES = 64


def main() -> None:
    """Read the task from standard input, as JSON, and do it; see `execution`."""
    task = json.load(sys.stdin)
    die_with_parent()
    if os.getppid() != task["parent"]:
        # It ended before the line above.
        return
    if task["is_confined"]:
        try:
            confine(task["folder"], task["shown"])
        except OSError as error:
            sys.stderr.write(str(error))
            sys.stderr.flush()
            os._exit(NOT_CONFINED)
    limits = {"CPU": task["cpu_seconds"], "FSIZE": MAX_FILE_BYTES, "NPROC": MAX_PROCESSES, "CORE": 0}
    if sys.platform == "linux":
        limits["AS"] = task["memory_bytes"]
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    role = {"serve": serve, "judge": judge}[task["role"]]
    sys.argv = ["program.py"]
    role(task["source"], socket.socket(fileno=task["connection"]))
