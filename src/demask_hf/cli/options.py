"""Options that several subcommands share; parsing only."""

import argparse
from typing import Any


def add_command(commands: Any, name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Add a subcommand with a description and examples."""
    return commands.add_parser(
        name,
        help=description,
        description=description[0].upper() + description[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which model and head to load, and how."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="PATH", help="folder or Hub repository (default: the shipped checkpoint)")
    group.add_argument("--head", metavar="PATH", help="its dependency head (shipped checkpoint: its own)")
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    group.add_argument("--dtype", default="auto", choices=dtypes, help="of the weights (default: as stored)")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `generate` apart from the strategy."""
    group = parser.add_argument_group("decoding (default: what the checkpoint says)")
    counts = {
        "max-new-tokens": "length of the answer; 0 fills the masks of the prompt only",
        "block-length": "decode the answer block by block, each of this many tokens",
        "max-denoising-steps": "steps of the schedule, or for other strategies their limit",
        "top-k": "keep this many most likely tokens",
    }
    for name, text in counts.items():
        group.add_argument(f"--{name}", type=int, metavar="N", help=text)
    group.add_argument("--cache", choices=("none", "prefix", "dual"), help="keep keys and values within a block")
    group.add_argument("--cache-refresh-interval", type=int, metavar="N", help="forwards between full ones")
    group.add_argument("--compile", nargs="?", const=True, metavar="MODE", help="use torch.compile")
    group.add_argument("--top-p", type=float, metavar="P", help="keep the most likely tokens up to this mass")
    group.add_argument("--temperature", type=float, metavar="T", help="0 takes the most likely token")
    group.add_argument("--seed", type=int, default=0, help="prompt number i, from 0, is decoded with seed + i (0)")
    group.add_argument(
        "--no-stop-at-eos", dest="stop_at_eos", action="store_false", default=None, help="decode every position"
    )
