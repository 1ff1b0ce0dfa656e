"""Options of the subcommands that measure the bound and choose it; parsing only."""

import argparse
from typing import Any

from .options import add_command, add_model_options, add_sampling_options


_VERIFY_EXAMPLES = """examples:
  demask-hf verify --num-prompts 20 --out verification.json --figures figures
  demask-hf verify --set rule=total --set dependency_bound=0.1 --temperature 0.7 --top-p 0.9
  demask-hf verify --model MODEL --head HEAD --file prompts.txt --chat

Without --file the prompts are those of the shipped checkpoint's task families.
"""

_CALIBRATE_EXAMPLES = """examples:
  demask-hf calibrate --model MODEL --head HEAD --file prompts.txt --risk tv --epsilon 0.05 --delta 0.1
  demask-hf calibrate --risk task --families pairs bill --num-prompts 100 --temperature 0 --out head
  demask-hf calibrate --risk disagreement --temperature 0 --bounds 0 0.05 0.1 --test bonferroni --out head

The chosen bound goes into the head's config.json with what it was chosen for, and decoding then uses it by default.
The same command again goes on where it was interrupted.
"""
_BOUNDS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)


def add_bound_commands(commands: Any) -> None:
    """Add verify and calibrate to the parser's subcommands."""
    verify = add_command(
        commands, "verify", "measure the error of unmasking together beside the bound on it", _VERIFY_EXAMPLES
    )
    _add_prompt_options(verify, 20)
    add_model_options(verify)
    _add_rule_options(verify)
    verify.add_argument("--walk", metavar="SPEC", help="strategy that decodes to the states (default: demask)")
    group = verify.add_argument_group("measuring")
    group.add_argument("--num-draws", type=int, default=256, metavar="N", help="Monte Carlo draws of a set (256)")
    group.add_argument(
        "--max-continuations", type=int, default=512, metavar="N", help="enumerate a set up to this many (512)"
    )
    group.add_argument("--num-orders", type=int, default=1, metavar="N", help="other orders of each selected set (1)")
    group.add_argument("--out", metavar="FILE", help="write every measurement as JSON")
    group.add_argument("--figures", metavar="DIR", help="draw figures into this folder")
    add_sampling_options(verify)
    verify.set_defaults(temperature=1.0)
    calibrate = add_command(
        commands,
        "calibrate",
        "choose the dependency bound so that a measured loss is at most EPSILON, except with probability DELTA",
        _CALIBRATE_EXAMPLES,
    )
    _add_prompt_options(calibrate, 50)
    add_model_options(calibrate)
    _add_rule_options(calibrate)
    group = calibrate.add_argument_group("guarantee")
    group.add_argument(
        "--risk", default="tv", help="tv (mean error of a step), disagreement (with one token a forward) or task (tv)"
    )
    group.add_argument("--epsilon", type=float, default=0.05, metavar="E", help="limit of the expected loss (0.05)")
    group.add_argument("--delta", type=float, default=0.1, metavar="D", help="probability of an error (0.1)")
    group.add_argument("--bounds", type=float, nargs="+", default=_BOUNDS, metavar="B", help="candidates (0 ... 0.5)")
    group.add_argument("--test", default="fixed-sequence", help="fixed-sequence or bonferroni (fixed-sequence)")
    group.add_argument("--num-draws", type=int, default=4, metavar="N", help="for tv: draws for each step (4)")
    group.add_argument("--work", default="calibration", metavar="DIR", help="folder of kept losses (calibration)")
    group.add_argument("--out", metavar="DIR", help="write a copy of the head there (default: change the head)")
    add_sampling_options(calibrate)
    calibrate.set_defaults(temperature=1.0, split="validation")


def _add_prompt_options(parser: argparse.ArgumentParser, num_prompts: int) -> None:
    group = parser.add_argument_group("prompts")
    group.add_argument("--families", nargs="+", metavar="NAME", help="task families (default: all)")
    group.add_argument("--split", default="test", help="split of the families: train, validation or test")
    group.add_argument(
        "--num-prompts", type=int, default=num_prompts, metavar="N", help=f"prompts of each family ({num_prompts})"
    )
    group.add_argument("--file", metavar="FILE", help="read one prompt from each line that is not empty instead")
    group.add_argument("-e", "--escapes", action="store_true", help=r"read \n, \t and \\ in prompts as characters")
    group.add_argument("--chat", action="store_true", help="put each prompt into the tokenizer's chat template")


def _add_rule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("rule").add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="set a field of the demask strategy"
    )
