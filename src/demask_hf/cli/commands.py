"""What the subcommands of `demask-hf` do with their parsed arguments."""

import argparse
import json
import re
import sys

from transformers import PreTrainedTokenizerBase, TextDiffusionStreamer
from transformers.utils import logging

from ..evaluation.decoding import Decoding, decode_prompts
from ..evaluation.specs import field_of, strategy_of
from ..generation.mixin import DemaskGenerationMixin
from ..generation.profiling import profile_steps
from ..models import loading
from ..strategies import UnmaskingStrategy, make_strategy, strategy_fields, strategy_names
from .demo import run_demo


SETTINGS = ("max_new_tokens", "block_length", "max_denoising_steps", "temperature", "top_p", "top_k", "stop_at_eos")
SETTINGS += ("cache", "cache_refresh_interval", "compile")
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}
_COLUMNS = ("strategy", "passes", "tokens/pass", "seconds", "text")


def generate(arguments: argparse.Namespace) -> None:
    """Decode the prompts with one strategy or several and print answers, a table for each, or JSON lines."""
    is_comparison = arguments.compare is not None
    if arguments.stream and (arguments.json or is_comparison):
        raise ValueError("`--stream` must be used without --json and --compare.")
    prompts = read_texts(arguments)
    strategies = _chosen_strategies(arguments)
    model, tokenizer = load_model(arguments)
    texts = model_texts(prompts, tokenizer, arguments)
    settings = {name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name) is not None}
    if is_comparison:
        # The first forward pass of a process is slow; it must not count for the first strategy.
        first_pass = {**settings, "max_denoising_steps": 1}
        decode_prompts(model, tokenizer, texts[:1], "threshold", seed=arguments.seed, **first_pass)
    if arguments.stream:
        settings["streamer"] = _streamer(tokenizer, arguments.delay)
    batch_size = 1 if arguments.stream else arguments.batch_size
    for start in range(0, len(prompts), max(batch_size, 1)):
        batch, seed = texts[start : start + batch_size], arguments.seed + start
        columns = [
            decode_prompts(model, tokenizer, batch, strategy, batch_size, seed=seed, **settings)
            for strategy in strategies.values()
        ]
        for prompt, row in zip(prompts[start:], zip(*columns, strict=True), strict=False):
            decodings = dict(zip(strategies, row, strict=True))
            if arguments.json:
                _print_json(prompt, strategies, decodings)
            elif is_comparison:
                _print_table(prompt, decodings)
            else:
                _print_answer(*row, is_streamed=arguments.stream)


def strategies(arguments: argparse.Namespace) -> None:
    """Print every registered strategy with its fields and their defaults."""
    for name in strategy_names():
        description = (type(make_strategy(name)).__doc__ or "").strip().split("\n")[0]
        fields = strategy_fields(name)
        if arguments.json:
            print(json.dumps({"name": name, "description": description, "fields": fields}))
        else:
            print(name, f"    {description}", sep="\n")
            print(*(f"    {field} = {json.dumps(default)}" for field, default in fields.items()), sep="\n", end="\n\n")


def demo(arguments: argparse.Namespace) -> None:
    """Load the model and run the demonstration."""
    model, tokenizer = load_model(arguments)
    run_demo(model, tokenizer, arguments.num_examples, arguments.temperature, arguments.seed)


def profile(arguments: argparse.Namespace) -> None:
    """Decode the prompts as one batch, several times, and print where the time of a step goes."""
    prompts = read_texts(arguments)
    (strategy,) = _chosen_strategies(arguments).values()
    model, tokenizer = load_model(arguments)
    inputs = tokenizer(
        model_texts(prompts, tokenizer, arguments), padding=True, padding_side="left", return_tensors="pt"
    )
    settings = {name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name) is not None}
    ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]
    measured = profile_steps(model, ids, attention_mask, strategy, arguments.num_runs, seed=arguments.seed, **settings)
    print(json.dumps(measured.steps) if arguments.json else measured.table())


def read_texts(arguments: argparse.Namespace) -> list[str]:
    """Return the prompts of the command line, of the file, or of standard input."""
    if arguments.prompts and arguments.file is not None:
        raise ValueError("`--file` must be used without prompts on the command line.")
    if arguments.prompts:
        prompts = arguments.prompts
    elif arguments.file not in (None, "-"):
        with open(arguments.file, encoding="utf-8") as file:
            prompts = [line.removesuffix("\n") for line in file if line.strip()]
    else:
        lines = [] if sys.stdin.isatty() else sys.stdin
        prompts = [line.removesuffix("\n") for line in lines if line.strip()]
    if not prompts:
        raise ValueError("a prompt must be given: before --compare, with --file, or on standard input.")
    if not all(prompts):
        raise ValueError("`prompt` must hold at least one character, got an empty one.")
    if arguments.escapes:
        return [re.sub(r"\\[nt\\]", lambda match: _ESCAPES[match[0]], prompt) for prompt in prompts]
    return prompts


def _chosen_strategies(arguments: argparse.Namespace) -> dict[str, UnmaskingStrategy]:
    """Return the strategies to decode with, by the text that chose them."""
    has_head = arguments.head is not None
    if arguments.compare is None:
        specs = [arguments.strategy or ("demask" if has_head else "threshold")]
    else:
        specs = arguments.compare or [name for name in strategy_names() if has_head or name != "demask"]
    common = dict(map(field_of, arguments.set))
    chosen, used = {}, set()
    for spec in specs:
        own = strategy_of(spec)
        shared = common.keys() & strategy_fields(own["name"]).keys()
        used |= shared
        chosen[spec] = make_strategy(**{**{field: common[field] for field in shared}, **own})
    for field in common.keys() - used:
        # Raises, naming the fields that the first strategy does have.
        make_strategy(specs[0].partition(":")[0], **{field: common[field]})
    return chosen


def load_model(arguments: argparse.Namespace) -> tuple[DemaskGenerationMixin, PreTrainedTokenizerBase]:
    """Return the model, with its head if there is one, and the tokenizer."""
    logging.disable_progress_bar()
    names = ("device", "dtype")
    options = {name: getattr(arguments, name) for name in names}
    return loading.load_model(
        arguments.model, arguments.head, revision=getattr(arguments, "revision", None), **options
    )


def model_texts(prompts: list[str], tokenizer: PreTrainedTokenizerBase, arguments: argparse.Namespace) -> list[str]:
    """Return what the model reads for each prompt, and warn of text that its tokenizer does not know."""
    for prompt in prompts:
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokenizer(prompt)["input_ids"]:
            print(f"demask-hf: warning: the tokenizer does not know all of {prompt!r}.", file=sys.stderr)
    if not arguments.chat:
        return prompts
    if tokenizer.chat_template is None:
        raise ValueError("`--chat` must be used with a tokenizer that has a chat template, got one without.")
    turns = ([{"role": "user", "content": prompt}] for prompt in prompts)
    return [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]


def _streamer(tokenizer: PreTrainedTokenizerBase, delay: float) -> TextDiffusionStreamer:
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
    rows = [_COLUMNS]
    for spec, decoding in decodings.items():
        costs = (f"{decoding.tokens_per_forward:.2f}", f"{decoding.seconds:.3f}")
        rows.append((spec, str(decoding.num_forward_passes), *costs, decoding.answer.replace("\n", "\\n")))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS) - 1)]
    print(prompt.replace("\n", "\\n"))
    for label, *numbers, text in rows:
        cells = [f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=True)]
        print(f"  {label:<{widths[0]}}", *cells, text, sep="  ", flush=True)
