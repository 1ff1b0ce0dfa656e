"""Shut a process in: its own processes, network and files, as a user without rights; Linux 5.12 or newer."""

import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterable
from pathlib import Path


#: Status of a process that could not be confined.
NOT_CONFINED = 91
#: Bytes that the working folder may hold.
MAX_FOLDER_BYTES = 64 * 2**20
# What an interpreter and its libraries need; nothing in them is private.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
# "nobody" of the kernel, without files of its own.
_NOBODY = 65534

_CLONE = {"mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000}
_CLONE |= {"network": 0x40000000}
_BIND, _RECURSIVE, _PRIVATE, _NOSUID, _NODEV, _READ_ONLY = 4096, 16384, 1 << 18, 2, 4, 1
_DETACH = 2
_PDEATHSIG, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 24, 38
# Numbers of system calls without a wrapper in older C libraries, the same on all processors since Linux 5.1.
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000


def die_with_parent() -> None:
    """Let the kernel kill this process when the process that started it ends; Linux only."""
    if sys.platform == "linux":
        _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def confine(folder: str, shown: Iterable[str]) -> None:
    """Go on in a child process that sees read-only system folders and an empty working folder, and no network.

    It is the first in its own tree of processes, so all of them end with it; it ends with this one, and this one exits
    with its status, or with `NOT_CONFINED`.

    Args:
        folder (`str`): An empty folder; the process sees another empty one there, which is gone with it.
        shown (`Iterable[str]`): Folders of the interpreter, besides those of the system; they become readable.

    Raises:
        OSError: if the system does not allow it.
    """
    is_root, ids = os.geteuid() == 0, (os.geteuid(), os.getegid())
    kinds = _CLONE.keys() - ({"user"} if is_root else set())
    _call("unshare", sum(_CLONE[kind] for kind in kinds))
    if not is_root:
        Path("/proc/self/setgroups").write_text("deny")
        for name, number in zip(("uid_map", "gid_map"), ids, strict=True):
            Path("/proc/self", name).write_text(f"{number} {number} 1")
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child:
        theirs.close()
        is_ready = bool(ours.recv(1))
        if is_ready:
            ours.send(b"1")
        status = _status(os.waitpid(child, 0)[1])
        # What runs inside cannot claim that it was never confined.
        os._exit(NOT_CONFINED if not is_ready else 1 if status == NOT_CONFINED else status)
    ours.close()
    _enter_new_root(folder, shown)
    _drop_rights(_NOBODY if is_root else None)
    # Only now, as it is forgotten when rights change; if the parent died before, it does not answer.
    die_with_parent()
    theirs.send(b"1")
    if not theirs.recv(1):
        os._exit(1)
    theirs.close()


def _status(waited: int) -> int:
    return os.WEXITSTATUS(waited) if os.WIFEXITED(waited) else 128 + os.WTERMSIG(waited)


def _enter_new_root(folder: str, shown: Iterable[str]) -> None:
    """Replace the root by one that holds what is shown, without a way back."""
    os.umask(0o022)
    _mount("none", "/", "", _RECURSIVE | _PRIVATE)
    _mount("tmpfs", folder, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    done: list[str] = []
    for path in (*_SYSTEM, *sorted(shown)):
        # Nor below a link, which could lead out of the folder.
        if os.path.exists(path) and path != "/" and not any(f"{path}/".startswith(f"{other}/") for other in done):
            _show(path, folder + path)
            done.append(path)
    os.makedirs(folder + folder)
    os.makedirs(folder + "/dev", exist_ok=True)
    for device in _DEVICES:
        Path(folder + device).touch()
    attributes = struct.pack("QQQQ", _READ_ONLY | _NOSUID | _NODEV, 0, 0, 0)
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, folder.encode(), _AT_RECURSIVE, attributes, len(attributes))
    for device in _DEVICES:
        _mount(device, folder + device, "", _BIND)
    _mount("tmpfs", folder + folder, "tmpfs", _NOSUID | _NODEV, f"size={MAX_FOLDER_BYTES},nr_inodes=4096,mode=777")
    os.chdir(folder)
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(f"the processor {os.uname().machine} is not supported")
    # The old root is put on top of the new one, and taken away.
    _call("syscall", number, b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir(folder)


def _show(path: str, target: str) -> None:
    """Make a folder or a file of the old root readable in the new one; a link stays a link."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path) and path in _SYSTEM:
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        Path(target).touch()
    _mount(path, target, "", _BIND | _RECURSIVE)


def _drop_rights(user: int | None) -> None:
    """Give up all capabilities, for good, and become a user and a group if one is given."""
    number = 0
    # Up to the last one that this kernel knows.
    while _libc().prctl(_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    # Version 3 of the layout, for this process; three sets of 64 bits.
    _call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _call("mount", source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library.

    Raises:
        OSError: if it returns an error.
    """
    if getattr(_libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
