"""`demask-hf evaluate`: decode task prompts with one strategy and check the answers."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import keep_facts
from ..tables import text_lines
from .engines import EngineOptions
from .options import ModelOptions, SampledDecodingOptions
from .parser import CommandParser, option, same_as
from .prompts import TaskOptions, load_tasks


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..evaluation.comparison import Outcome
    from ..generation.mixin import DemaskGenerationMixin

EXAMPLES = """examples:
  demask-hf evaluate --strategy demask:dependency_bound=0.06 --num-prompts 100
  demask-hf evaluate --task sudoku pairs --strategy threshold --temperature 1 --seeds 5 --out runs/threshold
  demask-hf evaluate --model MODEL --head HEAD --task gsm8k=test.jsonl --max-new-tokens 256 --out runs/gsm8k
  demask-hf evaluate --model MODEL --head HEAD --task gsm8k=test.jsonl --out runs/gsm8k --engine ray

To resume an interrupted evaluation that has a folder OUT, run the same command again: no prompt is decoded twice.
"""


@dataclass(frozen=True)
class EvaluateOptions:
    """What is decoded, and where its records are stored.

    Args:
        strategy (`str`, *optional*):
            NAME or NAME:FIELD=VALUE,FIELD=VALUE, where a field is one of the strategy or a setting of generate; by
            default demask with a head, else what the model's settings name, else threshold.
        split (`str`, *optional*, defaults to "test"):
            Split of the task families: train, validation or test.
        out (`str`, *optional*):
            Keep the records there, to resume or to compare later.
    """

    strategy: str | None = option(metavar="SPEC")
    split: str = "test"
    out: str | None = option(metavar="DIR")
    batch_size: int = same_as("evaluation.runs.Run", "batch_size")


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    options = (EvaluateOptions, TaskOptions, SampledDecodingOptions, EngineOptions, ModelOptions)
    return CommandParser("evaluate", *options, epilog=EXAMPLES)


def run(
    options: EvaluateOptions,
    tasks: TaskOptions,
    decoding: SampledDecodingOptions,
    engine: EngineOptions,
    model_options: ModelOptions,
) -> None:
    """Decode task prompts with one strategy and print the results by task."""
    from accelerate import PartialState

    from ..evaluation.comparison import Outcome
    from ..evaluation.runs import Run
    from ..evaluation.specs import parse_settings
    from ..locking import locked

    head = model_options.head_or_shipped
    spec = options.strategy or model_options.default_strategy(head)
    settings = parse_settings(spec, decoding.settings())
    if len(settings) > 1:
        raise ValueError(f"`--strategy` must be one setting, got {spec!r}; `benchmark --compare` takes several.")
    if options.out is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "`--out` must be given where several processes share the work, a folder that all of them see."
        )
    loaded = load_tasks(tasks, options.split, tasks.num_prompts)
    with tempfile.TemporaryDirectory() as temporary, locked(Path(options.out or temporary), is_shared=True):
        model, tokenizer = engine.load(model_options, head)
        folder = Path(options.out or temporary)
        keep_run_facts(folder, run_facts(model_options, decoding.seed, model, tokenizer), model)
        decoded = Run(loaded, tasks.seeds, folder, options.batch_size, decoding.seed)
        if engine.is_ray:
            from ..ray import decode_runs

            batches = decoded.missing(settings[0])
            records = decode_runs(model_options.arguments(head), settings[0], batches, engine.workers)
            decoded.keep(settings[0], batches, records)
        else:
            decoded.decode(model, tokenizer, settings[0])
        if not PartialState().is_main_process:
            return
        outcome = Outcome.of(settings[0], decoded.records(settings[0]))
    print(f"{settings[0].label}, {len(outcome.family)} prompts, {tasks.seeds} seed(s)")
    _print_table(outcome)
    if not engine.is_ray:
        print(f"peak memory: {_peak_memory(model)}")


def run_facts(
    options: ModelOptions, seed: int, model: DemaskGenerationMixin, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Return the facts that records depend on, apart from settings and prompts."""
    from ..models.fingerprints import model_facts

    names = {"model": options.model_or_shipped, "head": options.head_or_shipped}
    return {**names, "seed": seed, **model_facts(model, tokenizer)}


def keep_run_facts(folder: Path, facts: dict[str, Any], model: DemaskGenerationMixin) -> None:
    """Write the facts of a folder in one process, and compare them in the others.

    Raises:
        ValueError: if the folder holds other facts, or records without facts.
    """
    from accelerate import PartialState

    from ..evaluation.runs import FACTS_FILE, RECORDS

    with PartialState(cpu=model.device.type == "cpu").main_process_first():
        keep_facts(folder / FACTS_FILE, facts, "run", RECORDS)


def _print_table(outcome: Outcome) -> None:
    """Print a row for each task and for all of them."""
    from ..evaluation.benchmark import SUMMARY_COLUMNS

    families = sorted(set(outcome.family.tolist()))
    parts = {**{family: [family] for family in families}, "all": families}
    rows = [{"task": label, **outcome.only(kept).summary()} for label, kept in parts.items()]
    print("\n".join(text_lines(SUMMARY_COLUMNS, rows)))


def _peak_memory(model: DemaskGenerationMixin) -> str:
    if model.device.type == "cuda":
        import torch

        return f"{torch.cuda.max_memory_allocated(model.device) / 1e9:.2f} GB on the device"
    import resource

    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.2f} GB of the whole process"
