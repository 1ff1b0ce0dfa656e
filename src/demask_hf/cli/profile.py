"""`demask-hf profile`: show where the time of a denoising step goes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from .options import ModelOptions, SeededDecodingOptions, StrategyOptions, chosen_strategies
from .parser import CommandParser, same_as, switch
from .prompts import PromptOptions, add_prompts, model_prompts, read_texts, warn_of_missing_space


FACTS = """The prompts are decoded as one batch. What is printed is the time of a step in the backbone, its output
layer, the dependency head, the selection of positions, and the rest.
"""


@dataclass(frozen=True)
class ProfileOptions:
    """What is measured and printed.

    Args:
        json (`bool`, *optional*, defaults to `False`):
            Print one JSON list with the seconds of every step.
    """

    num_runs: int = same_as("generation.profiling.profile_steps", "num_runs")
    json: bool = switch()


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    options = (ProfileOptions, PromptOptions, StrategyOptions, SeededDecodingOptions, ModelOptions)
    parser = CommandParser("profile", *options, epilog=FACTS)
    add_prompts(parser)
    return parser


def run(
    options: ProfileOptions,
    source: PromptOptions,
    strategy: StrategyOptions,
    decoding: SeededDecodingOptions,
    model_options: ModelOptions,
    prompts: Sequence[str],
) -> None:
    """Decode the prompts several times and print the time of each part of a step."""
    from ..generation.encoding import encode_batch
    from ..generation.profiling import profile_steps

    prompts = read_texts(prompts, source)
    warn_of_missing_space(prompts, model_options)
    head = model_options.head_or_shipped
    (rule,) = chosen_strategies(strategy, None, head, model_options).values()
    model, tokenizer = model_options.load(head)
    ids, attention_mask = encode_batch(tokenizer, model_prompts(prompts, tokenizer, source))
    measured = profile_steps(
        model, ids, attention_mask, rule, options.num_runs, seed=decoding.seed, **decoding.settings()
    )
    print(json.dumps(measured.steps) if options.json else measured.table())
