"""The command `demask-hf`: decode prompts, compare strategies, list them, show the demonstration."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .bound import add_bound_commands
from .evaluation import add_evaluation_commands
from .head import add_head_commands
from .options import add_model_options, add_sampling_options


_GENERATE_EXAMPLES = r"""examples:
  demask-hf generate "pairs: =07, =12, =05, =18, =03, =11 -> "
  demask-hf generate "sort: DACBE FGAHJ TRNPM KLBCA -> " --strategy threshold --set confidence_threshold=0.8
  demask-hf generate "bill: tea: 2*?=??; milk: ?*?=??; egg: ?*?=?? -> " --temperature 1 --seed 3 --json
  demask-hf generate "shuffle: JFP BDCP FCG DL MRH TFC -> " --compare
  demask-hf generate "shuffle: JFP BDCP FCG DL MRH TFC -> " --compare threshold demask:dependency_bound=0.2
  demask-hf generate -e "sudoku: 4000\n0124\n1032\n0041 -> " --stream --delay 0.3
  demask-hf generate --file prompts.txt --batch-size 16 --json > answers.jsonl
  demask-hf generate "Write a haiku." --model FOLDER --head FOLDER --chat --max-new-tokens 64

Without --model the small checkpoint of the package answers. It knows prompts of these layouts only, each with the
space at its end; `demask_hf.tasks.FAMILIES` generates more.
Prompts come before options that take several values, such as --compare.
"""


class _Parser(argparse.ArgumentParser):
    """A parser that raises, so that every kind of bad input is reported in one way."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*):
            Arguments; by default those of the process.

    Returns:
        `int`: the exit code: 0, 2 for bad input, or 130 when interrupted.
    """
    try:
        arguments = _parser().parse_args(argv)
        _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the output has gone; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, TypeError, ImportError) as error:
        message = str(error).strip() or type(error).__name__
        print(f"demask-hf: error: {message.splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    from .. import __version__

    parser = _Parser(prog="demask-hf", description="Parallel decoding for masked diffusion language models.")
    parser.add_argument("--version", action="version", version=f"demask-hf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    generate = commands.add_parser(
        "generate",
        help="decode prompts",
        description="Decode prompts: answers on standard output, what they cost on standard error.",
        epilog=_GENERATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_prompt_options(generate)
    add_model_options(generate)
    _add_strategy_options(generate)
    add_sampling_options(generate)
    strategies = commands.add_parser("strategies", help="list the strategies with their fields and defaults")
    strategies.add_argument("--json", action="store_true", help="one JSON object for each strategy")
    demo = commands.add_parser("demo", help="decode test prompts of the shipped checkpoint, three strategies compared")
    demo.add_argument("--num-examples", type=int, default=8, metavar="N", help="prompts of each task family (8)")
    demo.add_argument("--temperature", type=float, default=0.0, metavar="T", help="sampling temperature (0)")
    demo.add_argument("--seed", type=int, default=0, help="seed of prompts and sampling (0)")
    add_model_options(demo)
    profile = commands.add_parser(
        "profile",
        help="show where the time of a step goes",
        description="Decode prompts as one batch and print the time of a step in backbone, lm_head, head, selection.",
    )
    _add_prompt_options(profile, with_output=False)
    profile.add_argument("--num-runs", type=int, default=3, metavar="N", help="how often to decode (3)")
    profile.add_argument("--json", action="store_true", help="one JSON list with the seconds of every step")
    add_model_options(profile)
    _add_strategy_options(profile, with_comparison=False)
    add_sampling_options(profile)
    add_evaluation_commands(commands)
    add_head_commands(commands)
    add_bound_commands(commands)
    return parser


def _run(arguments: argparse.Namespace) -> None:
    from ..assets import TINY_DEMASK, TINY_DREAM
    from . import commands

    if arguments.command == "strategies":
        commands.strategies(arguments)
        return
    if getattr(arguments, "model", None) is None:
        arguments.model = TINY_DREAM
    if arguments.command in ("collect", "train", "export", "push"):
        from . import head_commands

        getattr(head_commands, arguments.command)(arguments)
        return
    if arguments.head is None and arguments.model == TINY_DREAM:
        arguments.head = TINY_DEMASK
    if arguments.command in ("evaluate", "benchmark"):
        from . import evaluation_commands as commands
    if arguments.command in ("verify", "calibrate"):
        from . import bound_commands as commands
    getattr(commands, arguments.command)(arguments)


def _add_prompt_options(parser: argparse.ArgumentParser, with_output: bool = True) -> None:
    group = parser.add_argument_group("prompts and output")
    group.add_argument("prompts", nargs="*", metavar="PROMPT", help="a prompt; default: lines of standard input")
    group.add_argument("--file", metavar="FILE", help="read one prompt from each line that is not empty")
    group.add_argument("-e", "--escapes", action="store_true", help=r"read \n, \t and \\ in prompts as characters")
    group.add_argument("--chat", action="store_true", help="put each prompt into the tokenizer's chat template")
    if not with_output:
        return
    group.add_argument("--batch-size", type=int, default=1, metavar="N", help="prompts decoded together (1)")
    group.add_argument("--stream", action="store_true", help="show drafts while decoding, one prompt at a time")
    group.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="pause after each draft (0)")
    group.add_argument("--json", action="store_true", help="one JSON object for each prompt and strategy")


def _add_strategy_options(parser: argparse.ArgumentParser, with_comparison: bool = True) -> None:
    group = parser.add_argument_group("strategy, written NAME or NAME:FIELD=VALUE,FIELD=VALUE")
    group.add_argument("--strategy", metavar="SPEC", help="default: demask with a head, else threshold")
    group.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="set a field where a strategy has it"
    )
    if not with_comparison:
        parser.set_defaults(compare=None)
        return
    group.add_argument(
        "--compare", nargs="*", metavar="SPEC", help="decode with several strategies (default: all) and tabulate"
    )
