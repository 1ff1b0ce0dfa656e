"""Options that several commands share: model, strategy and decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

from ..assets import TINY_DEMASK, TINY_DREAM
from .documented import constant
from .parser import CommandParser, Switch, option, repeated, same_as


# Whatever imports torch is imported on use, so that parsing takes a moment.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..generation.mixin import DemaskGenerationMixin
    from ..strategies import DemaskStrategy, UnmaskingStrategy

_LOAD_MODEL = "models.loading.load_model"
_SETTINGS = "generation.configuration.DemaskGenerationConfig"


@dataclass(frozen=True)
class ModelOptions:
    """Which model and head to load; the other options are those of [`load_model`].

    Args:
        model (`str`, *optional*):
            Folder or Hub repository of the model; by default the shipped checkpoint.
        head (`str`, *optional*):
            Folder or Hub repository of its dependency head; the shipped checkpoint decodes with its own.
    """

    _argument_group_name = "model"

    model: str | None = option(metavar="PATH")
    head: str | None = option(metavar="PATH")
    device: str | None = same_as(_LOAD_MODEL, "device")
    device_map: str | None = same_as(_LOAD_MODEL, "device_map", metavar="MAP")
    dtype: str = same_as(_LOAD_MODEL, "dtype", choices=("auto", "float32", "bfloat16", "float16"))
    revision: str | None = same_as(_LOAD_MODEL, "revision")
    quantization: str | None = same_as(
        _LOAD_MODEL, "quantization", choices=constant("models.quantization.QUANTIZATIONS")
    )

    @property
    def model_or_shipped(self) -> str:
        """The model; the shipped one if none is named."""
        return TINY_DREAM if self.model is None else self.model

    @property
    def head_or_shipped(self) -> str | None:
        """The head; with the shipped model its own if none is named."""
        return TINY_DEMASK if self.head is None and self.model_or_shipped == TINY_DREAM else self.head

    @property
    def public_model(self) -> str:
        """The name of the model in records: for the shipped one its public name, independent of its folder."""
        return "demask_hf.TINY_DREAM" if self.model_or_shipped == TINY_DREAM else self.model_or_shipped

    @property
    def public_head(self) -> str | None:
        """The same of the head."""
        return "demask_hf.TINY_DEMASK" if self.head_or_shipped == TINY_DEMASK else self.head_or_shipped

    def named(self, path: str | None) -> ModelOptions:
        """Return the options with the model that is named without `--model`, see [`add_model`].

        Raises:
            ValueError: if there are two models.
        """
        if path is not None and self.model is not None:
            raise ValueError(f"`model` must be named once, got {path!r} and {self.model!r}.")
        return self if path is None else replace(self, model=path)

    def default_strategy(self, head: str | None) -> str:
        """Return the strategy that `generate` takes where none is named; the settings of the model are read for it.

        Args:
            head (`str`, *optional*):
                The head that the model will have: `head` or `head_or_shipped`.
        """
        from ..evaluation.specs import spec_of
        from ..generation.arguments import default_strategy
        from ..generation.checkpoint import load_settings

        settings = load_settings(self.model_or_shipped, revision=self.revision or "main")
        return spec_of(default_strategy(None if settings is None else settings.strategy, head is not None))

    def load(self, head: str | None, is_shared: bool = False) -> tuple[DemaskGenerationMixin, PreTrainedTokenizerBase]:
        """Load the model with a head.

        Args:
            head (`str`, *optional*):
                The head: `head` or `head_or_shipped`.
            is_shared (`bool`, *optional*, defaults to `False`):
                Whether several processes share the work, each on its own device unless one is named.
        """
        from transformers.utils import logging

        from ..models.loading import load_model

        logging.disable_progress_bar()
        device = self.device
        if is_shared and device is None and self.device_map is None:
            from accelerate import PartialState

            device = str(PartialState().device)
        return load_model(
            self.model_or_shipped, head, device, self.device_map, self.dtype, self.revision, self.quantization
        )

    def arguments(self, head: str | None) -> dict[str, Any]:
        """Return `model` and `head`, and as `loading` the other arguments of [`load_model`]."""
        names = ("device", "device_map", "dtype", "revision", "quantization")
        loading = {name: getattr(self, name) for name in names}
        return {"model": self.model_or_shipped, "head": head, "loading": loading}


@dataclass(frozen=True)
class DecodingOptions:
    """Settings of `generate`, see [`DemaskGenerationConfig`]; `None` leaves them to the checkpoint."""

    _argument_group_name = "decoding (default: settings of the checkpoint)"

    max_new_tokens: int | None = same_as(_SETTINGS, "max_new_tokens")
    block_length: int | None = same_as(_SETTINGS, "block_length")
    max_denoising_steps: int | None = same_as(_SETTINGS, "max_denoising_steps")
    temperature: float | None = same_as(_SETTINGS, "temperature")
    top_p: float | None = same_as(_SETTINGS, "top_p")
    top_k: int | None = same_as(_SETTINGS, "top_k")
    scores: str | None = same_as(_SETTINGS, "scores", choices=constant("generation.configuration.SCORES"))
    eos_penalty: float | None = same_as(_SETTINGS, "eos_penalty")
    stop_at_eos: bool | None = same_as(_SETTINGS, "stop_at_eos", action=Switch, aliases="--no-stop-at-eos")
    block_cache: str | None = same_as(_SETTINGS, "block_cache", choices=constant("generation.configuration.CACHES"))
    cache_refresh_interval: int | None = same_as(_SETTINGS, "cache_refresh_interval")
    batch_invariant: bool | None = same_as(_SETTINGS, "batch_invariant", action=Switch)
    compile: str | None = same_as(_SETTINGS, "compile", nargs="?", const="default", metavar="MODE")

    def check(self) -> None:
        """Raise a `ValueError` if a setting is outside its range."""
        from ..generation.configuration import DemaskGenerationConfig

        DemaskGenerationConfig(**self.settings())

    def settings(self) -> dict[str, Any]:
        """Return the given settings as arguments of `generate`."""
        values = {field.name: getattr(self, field.name) for field in fields(DecodingOptions)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class SeededDecodingOptions(DecodingOptions):
    """Settings of `generate` with a seed.

    Args:
        seed (`int`, *optional*, defaults to 0):
            Prompt number `i`, counted from 0, is decoded with `seed + i`.
    """

    seed: int = 0


@dataclass(frozen=True)
class SampledDecodingOptions(DecodingOptions):
    """Settings of `generate` with the seed of a comparison.

    Args:
        seed (`int`, *optional*, defaults to 0):
            Seed of all samples; at temperature 0 it changes nothing.
    """

    seed: int = 0


@dataclass(frozen=True)
class StrategyOptions:
    """The strategy to decode with.

    Args:
        strategy (`str`, *optional*):
            By default demask with a head, else what the model's settings name, else threshold.
        set (`list[str]`, *optional*):
            Set a field wherever a strategy has it; may be repeated.
    """

    _argument_group_name = "strategy, written NAME or NAME:FIELD=VALUE,FIELD=VALUE"

    strategy: str | None = option(metavar="SPEC")
    set: list[str] = repeated("FIELD=VALUE")

    def check(self) -> None:
        """Raise a `ValueError` if the strategy or a field is unknown, or a value is wrong."""
        from ..evaluation.specs import field_of, strategy_of
        from ..strategies import make_strategy

        if self.strategy is not None:
            make_strategy(**strategy_of(self.strategy))
        dict(map(field_of, self.set))


@dataclass(frozen=True)
class RuleOptions:
    """The rule that is measured or calibrated.

    Args:
        set (`list[str]`, *optional*):
            Set a field of the demask strategy; may be repeated.
    """

    _argument_group_name = "rule"

    set: list[str] = repeated("FIELD=VALUE")

    def check(self) -> None:
        """Raise a `ValueError` as [`rule`] does."""
        self.rule()

    def rule(self) -> DemaskStrategy:
        """Return the strategy.

        Raises:
            ValueError: if a field is unknown or a value is wrong.
        """
        from ..evaluation.specs import field_of
        from ..strategies import make_strategy

        return cast("DemaskStrategy", make_strategy("demask", **dict(map(field_of, self.set))))


def add_model(parser: CommandParser) -> None:
    """Let a command take its model as an argument, see [`ModelOptions.named`]."""
    parser.add_argument(
        "path", metavar="MODEL", nargs="?", help="folder or Hub repository; another way to say --model"
    )


def _reads_head(strategy: UnmaskingStrategy) -> bool:
    """Whether a strategy, or one within it, needs a head."""
    from ..strategies import DemaskStrategy, WrappingStrategy

    if isinstance(strategy, WrappingStrategy):
        return any(map(_reads_head, strategy.wrapped))
    return isinstance(strategy, DemaskStrategy) and strategy.dependencies == "head"


def chosen_strategies(
    options: StrategyOptions, compare: Sequence[str] | None, head: str | None, models: ModelOptions
) -> dict[str, UnmaskingStrategy]:
    """Return the strategies to decode with, by the text that chose them.

    Args:
        options ([`StrategyOptions`]):
            The strategy, and fields that hold for all.
        compare (`Sequence[str]`, *optional*):
            Strategies to compare instead; an empty list stands for all that can run.
        head (`str`, *optional*):
            The head that the model has.
        models ([`ModelOptions`]):
            The model, asked for its default.

    Raises:
        ValueError: if a strategy or a field is unknown, or a value is wrong.
    """
    from ..evaluation.specs import field_of, strategy_of
    from ..strategies import make_strategy, strategy_fields, strategy_names

    if compare is None:
        specs = [options.strategy or models.default_strategy(head)]
    else:
        specs = list(compare) or [
            name for name in strategy_names() if head is not None or not _reads_head(make_strategy(name))
        ]
    common = dict(map(field_of, options.set))
    chosen: dict[str, UnmaskingStrategy] = {}
    used: set[str] = set()
    for spec in specs:
        own = strategy_of(spec)
        shared = common.keys() & strategy_fields(own["name"]).keys()
        used |= shared
        chosen[spec] = make_strategy(**{**{name: common[name] for name in shared}, **own})
    for name in common.keys() - used:
        # Raises, naming the fields that the first strategy does have.
        make_strategy(specs[0].partition(":")[0], **{name: common[name]})
    return chosen
