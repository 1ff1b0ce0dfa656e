"""Where the command `demask-hf` starts: help, version and wrong arguments, without importing torch.

Importing demask_hf takes seconds, since the package registers its models with transformers. The console script
therefore starts in this module beside the package, reads the arguments, and imports the rest only to run a command.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec, module_from_spec
from typing import Any, NoReturn


#: What each command does, in one line. The file of a command in `demask_hf/cli` has its name,
#: with underscores.
COMMANDS = {
    "generate": "decode prompts",
    "chat": "talk to a model in a terminal, and see it write",
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


def package_without_its_imports() -> Callable[[], Any]:
    """Let `demask_hf.cli` be imported without the package around it, and return the function that imports that.

    Only what such a module imports itself is imported then: parsers, but no torch.
    """
    spec = find_spec("demask_hf")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("No module named 'demask_hf'", name="demask_hf")
    package = sys.modules["demask_hf"] = module_from_spec(spec)
    loader = spec.loader
    return lambda: loader.exec_module(package)


def main() -> int:
    """Run the console script.

    Returns:
        `int`: the exit code, as of `demask_hf.cli.main`.
    """
    arguments = sys.argv[1:]
    try:
        command = read_command(arguments, metadata.version("demask-hf"))
    except ValueError as error:
        return refuse(str(error))
    prepare = package_without_its_imports()
    from demask_hf.cli.main import run_command

    return run_command(command, arguments[1:], prepare)
