"""The script that runs a program written by a model; `execution` starts it in a separate process."""

import os
import sys


MAX_FILE_BYTES = 16 * 2**20
MAX_PROCESSES = 64


def main(path: str, passed_status: str, cpu_seconds: str, memory_bytes: str) -> None:
    """Set limits that cannot be removed, run the program, and exit with a status that only its last line can reach.

    Args:
        path (`str`): File of the program.
        passed_status (`str`): Exit status after the program's last line, drawn for each run.
        cpu_seconds (`str`): Limit on processor time, in seconds.
        memory_bytes (`str`): Limit on address space of each process, in bytes; Linux only.
    """
    import resource

    limits = {"CPU": int(cpu_seconds), "FSIZE": MAX_FILE_BYTES, "NPROC": MAX_PROCESSES, "CORE": 0}
    if sys.platform == "linux":
        limits["AS"] = int(memory_bytes)
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    with open(path, encoding="utf-8") as file:
        code = compile(file.read(), path, "exec")
    sys.argv = [path]
    exec(code, {"__name__": "__main__"})
    # `sys.exit(0)` or `os._exit(0)` before the last test must not look like success, so success has its own status.
    os._exit(int(passed_status))


if __name__ == "__main__":
    main(*sys.argv[1:])
