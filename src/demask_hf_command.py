"""Where the command `demask-hf` starts: help, version and unknown commands, without importing torch.

Importing any module of demask_hf takes seconds, since the package registers its models with transformers. The console
script therefore starts in this module beside the package, and goes to `demask_hf.cli` only to run a command.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn


#: What each command does, in one line. The file of a command in `demask_hf/cli` has its name,
#: with underscores.
COMMANDS = {
    "generate": "decode prompts",
    "serve": "answer requests over HTTP, with the interface of OpenAI",
    "watch": "write a page that shows how a prompt is decoded, pass by pass",
    "strategies": "list the strategies with their fields and defaults",
    "demo": "compare three strategies on prompts of the shipped checkpoint",
    "profile": "show where the time of a denoising step goes",
    "evaluate": "decode task prompts with one strategy and check the answers",
    "benchmark": "compare strategies on tasks, each at its best limit",
    "head": "make a head for a model: from collect to export in one go",
    "collect": "measure dependencies in states of a model, to train a head on",
    "train": "train a head, or an adapter of one",
    "import-head": "take in a head that somebody else trained",
    "export": "write a head as the folder of a Hub repository",
    "push": "upload a head to the Hub",
    "verify": "measure the error of unmasking positions together, and its bound",
    "calibrate": "choose the dependency bound with a guarantee on a loss",
}


class RaisingParser(argparse.ArgumentParser):
    """A parser that raises, so that every kind of bad input is reported in one way."""

    def error(self, message: str) -> NoReturn:
        """Raise a `ValueError` with the message.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{message} (see {self.prog} --help)")


def read_command(arguments: Sequence[str], version: str) -> str:
    """Return the command that the first argument names; answer `--help` and `--version`, which exit.

    Args:
        arguments (`Sequence[str]`):
            Arguments of the process.
        version (`str`):
            Version of the package.

    Raises:
        ValueError: if there is no argument, or it names no command.
        SystemExit: after help or version.
    """
    width = max(map(len, COMMANDS)) + 2
    lines = "\n".join(f"  {name:<{width}}{line}" for name, line in COMMANDS.items())
    parser = RaisingParser(
        prog="demask-hf",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description=f"Parallel decoding for masked diffusion language models.\n\ncommands:\n{lines}",
        epilog="demask-hf COMMAND --help explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"demask-hf {version}")
    # What comes after the command is for its own parser.
    command: str = parser.parse_args(arguments[:1]).command
    return command


def refuse(message: str) -> int:
    """Print why a command ends, in one line, and return the exit code of bad input."""
    print(f"demask-hf: error: {message.splitlines()[0]}", file=sys.stderr)
    return 2


def main() -> int:
    """Run the console script.

    Returns:
        `int`: the exit code, as of `demask_hf.cli.main`.
    """
    try:
        read_command(sys.argv[1:], metadata.version("demask-hf"))
    except ValueError as error:
        return refuse(str(error))
    from demask_hf.cli import main as run_command

    return run_command()
