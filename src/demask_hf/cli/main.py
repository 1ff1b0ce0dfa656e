"""From the arguments of `demask-hf` to its exit code: find the command, run it, report errors."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from demask_hf_command import read_command, refuse


# Commands that need an extra of the package.
_EXTRAS = {"collect": "train", "train": "train", "evaluate": "eval", "benchmark": "eval", "head": "train,eval"}
_EXTRAS |= {"verify": "eval", "calibrate": "eval", "serve": "serve", "chat": "chat"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*):
            Arguments; by default those of the process.

    Returns:
        `int`: the exit code: 0, 2 for bad input, or 130 when interrupted.
    """
    from .. import __version__

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        command = read_command(arguments, __version__)
    except ValueError as error:
        return refuse(str(error))
    return run_command(command, arguments[1:])


def run_command(command: str, arguments: Sequence[str], prepare: Callable[[], Any] | None = None) -> int:
    """Run a command.

    Args:
        command (`str`):
            Its name.
        arguments (`Sequence[str]`):
            What follows it.
        prepare (`Callable`, *optional*):
            Called between reading the arguments, which imports little, and the work.

    Returns:
        `int`: the exit code, as of [`main`].
    """
    try:
        carry_out(command, arguments, prepare)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\ndemask-hf: interrupted. {_resuming(command)}".rstrip(), file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output is gone, so nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, TypeError) as error:
        return refuse(_with_help(str(error).strip() or type(error).__name__, command))
    except (OSError, ImportError) as error:
        return refuse(str(error).strip() or type(error).__name__)
    return 0


def carry_out(command: str, arguments: Sequence[str], prepare: Callable[[], Any] | None = None) -> None:
    """Import the file of a command, parse its arguments, check them and run it; arguments as of [`run_command`].

    Raises:
        ValueError: if the command refuses.
        ImportError: if it needs a package that is not installed.
    """
    try:
        module = import_module(f".{command.replace('-', '_')}", __package__)
        options, positionals = module.make_parser().parse(arguments)
        if prepare is not None:
            prepare()
        for one in options:
            if hasattr(one, "check"):
                one.check()
        module.run(*options, **positionals)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if command not in _EXTRAS or package == "demask_hf":
            raise
        raise ImportError(
            f"`{package}` must be installed for demask-hf {command}: pip install demask-hf[{_EXTRAS[command]}]."
        ) from None


def _resuming(command: str) -> str:
    """Return what the help of a command says about resuming it; empty if it keeps nothing."""
    text: str = getattr(sys.modules.get(f"{__package__}.{command.replace('-', '_')}"), "EXAMPLES", "")
    return next((line for line in text.splitlines() if line.startswith("To resume")), "")


def _with_help(message: str, command: str) -> str:
    """Return the first line of a message with the help to read."""
    line = message.splitlines()[0]
    hint = f"(see demask-hf {command} --help)"
    return line if line.endswith(hint) else f"{line} {hint}"
