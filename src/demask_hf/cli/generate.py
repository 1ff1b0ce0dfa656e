"""`demask-hf generate`: decode prompts with one strategy or several."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..tables import Column, terminal_width, text_lines
from .engines import EngineOptions
from .options import ModelOptions, SeededDecodingOptions, StrategyOptions, chosen_strategies
from .parser import AnyNumber, CommandParser, option, switch
from .prompts import PromptOptions, add_prompts, model_prompts, read_texts, warn_of_missing_space


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TextDiffusionStreamer

    from ..evaluation.decoding import Decoding
    from ..strategies import UnmaskingStrategy

EXAMPLES = r"""examples:
  demask-hf generate "pairs: =07, =12, =05, =18, =03, =11 -> "
  demask-hf generate "sort: DACBE FGAHJ TRNPM KLBCA -> " --strategy threshold --set confidence_threshold=0.8
  demask-hf generate "bill: tea: 2*?=??; milk: ?*?=??; egg: ?*?=?? -> " --temperature 1 --seed 3 --json
  demask-hf generate "shuffle: JFP BDCP FCG DL MRH TFC -> " --compare
  demask-hf generate "shuffle: JFP BDCP FCG DL MRH TFC -> " --compare threshold demask:dependency_bound=0.2
  demask-hf generate -e "sudoku: 4000\n0124\n1032\n0041 -> " --stream --delay 0.3
  demask-hf generate --file prompts.txt --batch-size 16 --json > answers.jsonl
  demask-hf generate "Write a haiku." --model FOLDER --head FOLDER --chat --max-new-tokens 64

Answers go to standard output, what they cost to standard error.
Without --model the small checkpoint of the package answers. It knows prompts of these layouts only, each with the
space at its end; `demask_hf.tasks.FAMILIES` generates more.
Prompts come before options that take several values, such as --compare.
"""
_COLUMNS = (
    Column("strategy", "strategy", is_text=True),
    Column("passes", "num_forward_passes"),
    Column("tokens/pass", lambda row: row["row"].tokens_per_forward, ".2f"),
    Column("seconds", "seconds", ".3f"),
    Column("text", "answer", is_text=True),
)


@dataclass(frozen=True)
class OutputOptions:
    """What is decoded together, and how it is shown.

    Args:
        batch_size (`int`, *optional*, defaults to 1):
            Prompts decoded together.
        stream (`bool`, *optional*, defaults to `False`):
            Show drafts while decoding, one prompt at a time.
        delay (`float`, *optional*, defaults to 0.0):
            Pause after each draft, in seconds.
        json (`bool`, *optional*, defaults to `False`):
            Print one JSON object for each prompt and strategy.
        compare (`list[str]`, *optional*):
            Decode with several strategies, by default with all, and print a table.
    """

    _argument_group_name = "output"

    batch_size: int = 1
    stream: bool = switch()
    delay: float = option(0.0, metavar="SECONDS")
    json: bool = switch()
    compare: list[str] | None = option(action=AnyNumber, metavar="SPEC")


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    options = (PromptOptions, OutputOptions, StrategyOptions, SeededDecodingOptions, EngineOptions, ModelOptions)
    parser = CommandParser("generate", *options, epilog=EXAMPLES)
    add_prompts(parser)
    return parser


def run(
    source: PromptOptions,
    output: OutputOptions,
    strategy: StrategyOptions,
    decoding: SeededDecodingOptions,
    engine: EngineOptions,
    model_options: ModelOptions,
    prompts: Sequence[str],
) -> None:
    """Decode the prompts and print answers, a table for each, or JSON lines."""
    is_comparison = output.compare is not None
    if output.stream and (output.json or is_comparison):
        raise ValueError("`--stream` must be used without --json and --compare.")
    prompts = read_texts(prompts, source)
    warn_of_missing_space(prompts, model_options)
    head = model_options.head_or_shipped
    strategies = chosen_strategies(strategy, output.compare, head, model_options)
    if engine.is_ray:
        if output.stream or is_comparison:
            raise ValueError("`--engine` must be local with --stream or --compare, got ray.")
        rows = _decoded_by_ray(prompts, source, output.batch_size, strategies, decoding, model_options, engine)
    else:
        rows = _decoded_here(prompts, source, output, strategies, decoding, model_options)
    for prompt, row in zip(prompts, rows, strict=True):
        decodings = dict(zip(strategies, row, strict=True))
        if output.json:
            _print_json(prompt, strategies, decodings)
        elif is_comparison:
            _print_table(prompt, decodings)
        else:
            _print_answer(row[0], output.stream)


def _decoded_here(
    prompts: Sequence[str],
    source: PromptOptions,
    output: OutputOptions,
    strategies: dict[str, UnmaskingStrategy],
    decoding: SeededDecodingOptions,
    model_options: ModelOptions,
) -> Iterator[Sequence[Decoding]]:
    """Yield the decodings of each prompt, one for each strategy."""
    from tqdm import tqdm

    from ..evaluation.decoding import decode_prompts

    model, tokenizer = model_options.load(model_options.head_or_shipped)
    texts = model_prompts(prompts, tokenizer, source)
    settings: dict[str, Any] = decoding.settings()
    if output.compare is not None:
        # The first forward pass of a process is slow and must not count for the first strategy.
        first_pass = {**settings, "max_denoising_steps": 1}
        decode_prompts(model, tokenizer, texts[:1], "threshold", seed=decoding.seed, **first_pass)
    if output.stream:
        settings["streamer"] = _streamer(tokenizer, output.delay)
    batch_size = 1 if output.stream else output.batch_size
    # Where answers go to a terminal, they show the progress themselves.
    starts = range(0, len(prompts), max(batch_size, 1))
    for start in tqdm(starts, unit="batch", disable=True if sys.stdout.isatty() or len(starts) == 1 else None):
        batch, seed = texts[start : start + batch_size], decoding.seed + start
        columns = [
            decode_prompts(model, tokenizer, batch, rule, batch_size, seed=seed, **settings)
            for rule in strategies.values()
        ]
        yield from zip(*columns, strict=True)


def _decoded_by_ray(
    prompts: Sequence[str],
    source: PromptOptions,
    batch_size: int,
    strategies: dict[str, UnmaskingStrategy],
    decoding: SeededDecodingOptions,
    model_options: ModelOptions,
    engine: EngineOptions,
) -> Iterator[Sequence[Decoding]]:
    """Yield the decoding of each prompt, which the one strategy made in the same batches as it would here."""
    from transformers import AutoTokenizer

    from ..ray import decode_batches

    tokenizer = AutoTokenizer.from_pretrained(
        model_options.model_or_shipped, revision=model_options.revision or "main"
    )
    texts = model_prompts(prompts, tokenizer, source)
    (strategy,) = strategies.values()
    arguments = model_options.arguments(model_options.head_or_shipped)
    arguments |= {"strategy": strategy.to_dict(), **decoding.settings()}
    numbers = [range(start, min(start + batch_size, len(texts))) for start in range(0, len(texts), batch_size)]
    batches = [([texts[index] for index in own], [decoding.seed + index for index in own]) for own in numbers]
    for found in decode_batches(arguments, batches, engine.workers):
        yield from ([each] for each in found)


def _streamer(tokenizer: PreTrainedTokenizerBase, delay: float) -> TextDiffusionStreamer:
    from transformers import TextDiffusionStreamer

    return TextDiffusionStreamer(tokenizer, skip_prompt=True, sleep_time=delay, skip_special_tokens=True)


def _print_answer(decoding: Decoding, is_streamed: bool) -> None:
    if not is_streamed:
        print(decoding.answer, flush=True)
    print(
        f"[{decoding.num_forward_passes} forward passes, {decoding.tokens_per_forward:.2f} tokens per forward pass, "
        f"{decoding.seconds:.2f} s]",
        file=sys.stderr,
    )


def _print_json(prompt: str, strategies: dict[str, UnmaskingStrategy], decodings: dict[str, Decoding]) -> None:
    for spec, decoding in decodings.items():
        strategy = strategies[spec].to_dict()
        counts = {"num_tokens": decoding.num_tokens, "tokens_per_forward": decoding.tokens_per_forward}
        print(json.dumps({**vars(decoding), "prompt": prompt, "strategy": strategy, **counts}), flush=True)


def _print_table(prompt: str, decodings: dict[str, Decoding]) -> None:
    rows = [{**vars(decoding), "strategy": spec, "row": decoding} for spec, decoding in decodings.items()]
    print(prompt.replace("\n", "\\n"))
    for line in text_lines(_COLUMNS, rows, terminal_width() - 2):
        print(f"  {line}", flush=True)
