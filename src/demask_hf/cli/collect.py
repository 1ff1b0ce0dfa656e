"""`demask-hf collect`: measure dependencies in states of a model, for a head to be trained on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .documented import constant, documented
from .engines import EngineOptions
from .options import ModelOptions
from .parser import CommandParser, option, same_as
from .prompts import DataOptions, provenance, training_prompts


if TYPE_CHECKING:
    from ..generation.mixin import DemaskGenerationMixin
    from ..training.prompts import TokenizedPrompt
    from ..training.states import CollectionSettings

_SETTINGS = "training.states.CollectionSettings"
EXAMPLES = """examples:
  demask-hf collect --data answers.jsonl --out states --num-states 2000 --estimator expectation
  demask-hf collect --model MODEL --data ORG/DATASET --out states --trajectory-ratio 0.3 --strategy threshold
  accelerate launch --num_processes 4 -m demask_hf collect --model MODEL --data answers.jsonl --out states
  demask-hf collect --model MODEL --data answers.jsonl --out states --engine ray --workers 16

Each line of a JSON Lines file has "prompt" and "answer", or "messages".
To resume an interrupted collection, run the same command again: files of states that are complete are kept.
"""


@dataclass(frozen=True)
class CollectOptions:
    """Input and output.

    Args:
        data (`str`):
            Prompts with answers: a JSON Lines file, a saved dataset, or a dataset of the Hub.
        out (`str`):
            Folder of the measured states.
        seed (`int`, *optional*):
            Seed of prompts, masks and sources.
    """

    data: str = field(metadata={"metavar": "DATA"})
    out: str = field(metadata={"metavar": "DIR"})
    seed: int = documented(_SETTINGS, "seed")[0]


@dataclass(frozen=True)
class StateOptions:
    """Fields of [`CollectionSettings`]; what is `None` follows from prompts and model.

    Args:
        num_states (`int`, *optional*):
            Number of states; by default one for each prompt.
        answer_length (`int`, *optional*):
            Length of the answer in tokens; by default the model's max_new_tokens, or else that of the longest answer.
        strategy (`str`, *optional*):
            The strategy that decodes, NAME or NAME:FIELD=VALUE,FIELD=VALUE.
    """

    _argument_group_name = "states"

    num_states: int | None = None
    answer_length: int | None = None
    num_sources: int = same_as(_SETTINGS, "num_sources")
    estimator: str = same_as(_SETTINGS, "estimator", choices=constant("functional.probes.TARGET_ESTIMATORS"))
    trajectory_ratio: float = same_as(_SETTINGS, "trajectory_ratio")
    strategy: str = option(documented(_SETTINGS, "strategy")[0], metavar="SPEC")
    temperature: float = same_as(_SETTINGS, "temperature")
    top_p: float | None = same_as(_SETTINGS, "top_p")
    state_batch_size: int = same_as(_SETTINGS, "batch_size")
    states_per_shard: int = same_as(_SETTINGS, "states_per_shard")

    def check(self) -> None:
        """Raise a `ValueError` if the strategy or a field is unknown, or a value is wrong."""
        from ..evaluation.specs import strategy_of
        from ..strategies import make_strategy

        make_strategy(**strategy_of(self.strategy))

    def settings(
        self, model: DemaskGenerationMixin, prompts: Sequence[TokenizedPrompt], seed: int
    ) -> CollectionSettings:
        """Return the settings of a collection, and warn if they cut answers.

        Args:
            model ([`DemaskGenerationMixin`]):
                The model, whose `max_new_tokens` is the length where none is given.
            prompts (`Sequence[TokenizedPrompt]`):
                The prompts; by default there is one state for each.
            seed (`int`):
                The seed.

        Raises:
            ValueError: if a setting is outside its range.
        """
        from ..evaluation.specs import strategy_of
        from ..training.states import CollectionSettings

        length = self.answer_length or model.generation_config.max_new_tokens
        length = length or max(len(prompt.answer) for prompt in prompts) + 1
        num_cut = sum(len(prompt.answer) > length for prompt in prompts)
        if num_cut:
            print(f"demask-hf: warning: {num_cut} answers are cut to {length} tokens.", file=sys.stderr)
        strategy = strategy_of(self.strategy)
        fields = asdict(self)
        fields |= {
            "num_states": len(prompts) if self.num_states is None else self.num_states,
            "answer_length": length,
            # What a collection records of a strategy without fields is its name.
            "strategy": strategy if len(strategy) > 1 else strategy["name"],
            "batch_size": fields.pop("state_batch_size"),
            "seed": seed,
        }
        return CollectionSettings(**fields)


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    options = (CollectOptions, DataOptions, StateOptions, EngineOptions, ModelOptions)
    return CommandParser("collect", *options, epilog=EXAMPLES)


def run(
    options: CollectOptions,
    data: DataOptions,
    states: StateOptions,
    engine: EngineOptions,
    model_options: ModelOptions,
) -> None:
    """Measure dependencies in states of a backbone and write them to a folder."""
    from ..locking import locked
    from ..training.collection import collect
    from ..training.prompts import check_source

    check_source(options.data, data.split)
    with locked(Path(options.out), is_shared=True):
        model, tokenizer = engine.load(model_options, model_options.head)
        prompts = training_prompts(options.data, data, tokenizer)
        settings = states.settings(model, prompts, options.seed)
        measure = None
        if engine.is_ray:
            from ..ray import measuring

            measure = measuring(model_options.arguments(model_options.head), prompts, settings, engine.workers)
        origin = {**provenance(options.data, data, model_options, model), "head": model_options.head}
        collection = collect(model, prompts, options.out, settings, origin, measure=measure)
    if collection is not None:
        print(f"complete: {len(collection)} states of {len(prompts)} prompts in {options.out}")
