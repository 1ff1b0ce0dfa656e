"""`demask-hf watch`: a page, or a trace in JSON, that shows how a prompt is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import write_text
from .options import ModelOptions, SeededDecodingOptions, StrategyOptions, chosen_strategies
from .parser import AnyNumber, CommandParser, option
from .prompts import PromptOptions, add_prompts, model_prompts, read_texts, warn_of_missing_space


if TYPE_CHECKING:
    from ..watching import Trace

EXAMPLES = r"""examples:
  demask-hf watch "pairs: =07, =12, =05, =18, =03, =11 -> " --out page.html
  demask-hf watch "shuffle: JFP BDCP FCG DL MRH TFC -> " --out page.html --compare demask threshold sequential
  demask-hf watch "sort: DACBE FGAHJ TRNPM KLBCA -> " --out trace.json
  demask-hf watch "Write a haiku." --model FOLDER --head FOLDER --chat --max-new-tokens 64 --out page.html

The page needs a browser and no network. A trace holds one strategy; docs/watching.md describes it.
Without --model the small checkpoint of the package answers, see demask-hf generate --help.
"""


@dataclass(frozen=True)
class WatchOptions:
    """What is shown, and where it is written.

    Args:
        out (`str`, *optional*, defaults to "decoding.html"):
            File to write: a page (.html), or the trace of one strategy (.json).
        compare (`list[str]`, *optional*):
            Show several strategies side by side, by default all.
    """

    _argument_group_name = "output"

    out: str = option("decoding.html", metavar="FILE")
    compare: list[str] | None = option(action=AnyNumber, metavar="SPEC")


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    options = (PromptOptions, WatchOptions, StrategyOptions, SeededDecodingOptions, ModelOptions)
    parser = CommandParser("watch", *options, epilog=EXAMPLES)
    add_prompts(parser)
    return parser


def run(
    source: PromptOptions,
    output: WatchOptions,
    strategy: StrategyOptions,
    decoding: SeededDecodingOptions,
    model_options: ModelOptions,
    prompts: Sequence[str],
) -> None:
    """Decode the prompt with each strategy, write the file, and print what each of them cost."""
    from ..generation.encoding import encode_batch
    from ..watching import write_page

    prompts = read_texts(prompts, source)
    if len(prompts) != 1:
        raise ValueError(f"`prompt` must be a single one to watch, got {len(prompts)}.")
    warn_of_missing_space(prompts, model_options)
    head = model_options.head_or_shipped
    strategies = chosen_strategies(strategy, output.compare, head, model_options)
    file = _checked(output.out, len(strategies))
    model, tokenizer = model_options.load(head)
    ids, attention_mask = encode_batch(tokenizer, model_prompts(prompts, tokenizer, source))
    settings = {**decoding.settings(), "num_return_sequences": 1, "seed": decoding.seed}
    settings |= {"tokenizer": tokenizer, "trace": True, "return_dict_in_generate": True}
    traces: list[Trace] = []
    for spec, rule in strategies.items():
        decoded = model.generate(ids, attention_mask, strategy=rule, **settings)
        trace: Trace = decoded.trace  # type: ignore[union-attr, assignment]
        traces.append(replace(trace, title=spec, model=model_options.public_model))
    if file.suffix == ".json":
        write_text(file, traces[0].to_json() + "\n")
    else:
        write_page([trace.to_dict() for trace in traces], file)
    for trace in traces:
        print(f"{trace.title}: {trace.decoded.num_forward_passes} forward passes")
    print(f"written: {file}")


def _checked(out: str, num_strategies: int) -> Path:
    """Return the file to write, before anything is loaded."""
    file = Path(out)
    if file.suffix not in (".html", ".json"):
        raise ValueError(f"`--out` must end with .html or .json, got {out!r}.")
    if file.suffix == ".json" and num_strategies > 1:
        raise ValueError(f"`--out` must be a page (.html) for {num_strategies} strategies, got {out!r}.")
    if not file.parent.is_dir():
        raise ValueError(f"`--out` must lie in a folder that exists, got {out!r}.")
    return file
