"""From the arguments of `demask-hf` to its exit code: find the command, run it, report errors."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from demask_hf_command import read_command, refuse

from .. import __version__


# Commands that need an extra of the package.
_EXTRAS = {"collect": "train", "train": "train", "evaluate": "eval", "benchmark": "eval", "head": "train,eval"}
_EXTRAS |= {"verify": "eval", "calibrate": "eval", "serve": "serve"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*):
            Arguments; by default those of the process.

    Returns:
        `int`: the exit code: 0, 2 for bad input, or 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        run_command(read_command(arguments, __version__), arguments[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the output is gone, so nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, TypeError, ImportError) as error:
        return refuse(str(error).strip() or type(error).__name__)
    return 0


def run_command(command: str, arguments: list[str]) -> None:
    """Import the file of a command, parse its arguments and run it.

    Args:
        command (`str`):
            Its name.
        arguments (`list[str]`):
            What follows the name.

    Raises:
        ImportError: if it needs a package that is not installed.
    """
    try:
        module = import_module(f".{command.replace('-', '_')}", __package__)
        options, positionals = module.make_parser().parse(arguments)
        module.run(*options, **positionals)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if command not in _EXTRAS or package == "demask_hf":
            raise
        raise ImportError(
            f"`{package}` must be installed for demask-hf {command}: pip install demask-hf[{_EXTRAS[command]}]."
        ) from None
