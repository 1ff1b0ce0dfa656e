"""From the arguments of `generate` to a resolved config, checked prompts and seeds."""

import copy
from numbers import Integral
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from ..strategies import UnmaskingStrategy, make_strategy
from ..strategies.base import fields_of
from .checks import check_sampling
from .configuration import DemaskGenerationConfig, check_keywords, known_names, setting_names


logger = logging.get_logger(__name__)


def resolve_config(
    model: torch.nn.Module,
    generation_config: GenerationConfig | None,
    strategy: str | dict | UnmaskingStrategy | None,
    overrides: dict[str, Any],
) -> tuple[DemaskGenerationConfig, UnmaskingStrategy]:
    """Merge keywords, the given config, the model's config and defaults, in this order of precedence.

    Args:
        model (`torch.nn.Module`):
            The model; its `generation_config` and whether it has a head are used.
        generation_config (`GenerationConfig`, *optional*):
            The caller's config.
        strategy (`str`, `dict` or [`UnmaskingStrategy`], *optional*):
            The caller's strategy.
        overrides (`dict[str, Any]`):
            The caller's keywords.

    Returns:
        `tuple[DemaskGenerationConfig, UnmaskingStrategy]`: the merged config, in which `max_denoising_steps` is `None`
        if it does not apply to the strategy, and a fresh strategy.

    Raises:
        ValueError: if a keyword is unknown, asks for another way of decoding, or has a value outside its range.
    """
    inherited = _as_ours(getattr(model, "generation_config", None))
    _check_options(generation_config)
    if {"labels", "synced_gpus"} <= overrides.keys() and inherited.max_length is None:
        # Nobody else passes both; its error would come after the first batch, and would not say what is missing.
        raise ValueError(
            "`model.generation_config.max_length` must be set for Seq2SeqTrainer, which pads answers to it, got None."
        )
    config = _as_ours(generation_config)
    names = setting_names()
    settings = {name: value for name, value in overrides.items() if name in names}
    fields = {name: value for name, value in overrides.items() if name not in names}
    # A config may be a copy of the checkpoint's: what it says alike is the checkpoint's.
    asked = {name for name in names if getattr(config, name) not in (None, getattr(inherited, name))}
    asked |= {name for name, value in settings.items() if value is not None}
    # The steps of an inherited schedule do not apply to another strategy; steps from elsewhere are then a cap.
    is_plan = (inherited if config.max_denoising_steps is None else config).is_schedule
    _fill(config, inherited)
    if settings.get("max_length") is not None:
        config.max_new_tokens = None
    for name, value in settings.items():
        setattr(config, name, value)
    rule = _rule(model, config, strategy, fields, "strategy" in asked)
    if is_plan and not rule.follows_schedule and "max_denoising_steps" not in settings:
        config.max_denoising_steps = None
    _settle_sampling(config, asked)
    for name, value in config._get_default_generation_params().items():
        if getattr(config, name) is None:
            setattr(config, name, value)
    config._asked = frozenset(asked)
    config.validate()
    return config, rule


def default_strategy(known: dict[str, Any] | None, has_head: bool) -> dict[str, Any]:
    """Return the strategy that decodes where the caller names none, with its name and fields.

    Args:
        known (`dict[str, Any]`, *optional*):
            The strategy that the checkpoint names.
        has_head (`bool`):
            Whether the model has a dependency head.
    """
    name = "demask" if has_head else "threshold" if known is None else known["name"]
    return dict(known) if known is not None and known["name"] == name else {"name": name}


def _rule(
    model: torch.nn.Module,
    config: DemaskGenerationConfig,
    strategy: str | dict | UnmaskingStrategy | None,
    fields: dict[str, Any],
    is_named: bool,
) -> UnmaskingStrategy:
    """Return a fresh strategy: the caller's, which may stand in the config, or the default."""
    if isinstance(strategy, UnmaskingStrategy):
        known = fields_of(type(strategy))
        check_keywords(fields, known)
        return strategy.fresh(**{name: value for name, value in fields.items() if name in known})
    if strategy is None and not is_named:
        before = config.strategy
        strategy = default_strategy(before, getattr(model, "demask_head", None) is not None)
        if before is not None and before["name"] != strategy["name"]:
            logger.warning_once(
                f"`generate` decodes with strategy {strategy['name']!r}, as the model has a dependency head, and not "
                f"with {before['name']!r} of its generation config; `strategy=` chooses another one."
            )
        else:
            logger.info_once(
                f"`generate` decodes with strategy {strategy['name']!r}; `strategy=` chooses another one."
            )
    config.set_strategy(strategy, fields)
    return make_strategy(**(config.strategy or {}))


def _settle_sampling(config: DemaskGenerationConfig, asked: set[str]) -> None:
    """Give the config the temperature that it asks for together with `do_sample`."""
    if "temperature" in asked and "do_sample" not in asked:
        # Asking for a temperature says whether to sample, whatever the checkpoint says.
        config.do_sample = None
    if "temperature" in asked:
        check_sampling(config.do_sample, config.temperature)
    elif config.do_sample and not config.temperature:
        config.temperature = 1.0
    if config.do_sample is False:
        config.temperature = 0.0


def check_inputs(input_ids: torch.Tensor | None, inputs: torch.Tensor | None) -> torch.Tensor | None:
    """Return the prompts, which transformers calls by two names.

    Raises:
        ValueError: if they are given by both.
    """
    if input_ids is not None and inputs is not None:
        raise ValueError("`inputs` must be None when `input_ids` is given, got both.")
    return inputs if input_ids is None else input_ids


def check_prompts(input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the prompts after checking that they are a left-padded batch of token ids.

    Raises:
        TypeError: if `input_ids` is not a tensor of integers, or `attention_mask` no tensor.
        ValueError: if a prompt is empty, or the attention mask has another shape or is not left-padded.
    """
    if not isinstance(input_ids, torch.Tensor) or input_ids.is_floating_point():
        raise TypeError(f"`input_ids` must be a tensor of token ids, got {type(input_ids).__name__}.")
    if input_ids.ndim != 2 or input_ids.numel() == 0:
        shape = tuple(input_ids.shape)
        raise ValueError(f"`input_ids` must have shape (batch, prompt_length) with at least one token, got {shape}.")
    if attention_mask is not None:
        if not isinstance(attention_mask, torch.Tensor):
            raise TypeError(f"`attention_mask` must be a tensor, got {type(attention_mask).__name__}.")
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"`attention_mask` must have the shape of `input_ids` {tuple(input_ids.shape)}, "
                f"got {tuple(attention_mask.shape)}."
            )
        is_real = attention_mask.bool()
        if not is_real.any(dim=-1).all():
            row = int((~is_real.any(dim=-1)).nonzero()[0])
            raise ValueError(f"`attention_mask` must leave at least one token in every prompt, got none in row {row}.")
        if (is_real[:, :-1] & ~is_real[:, 1:]).any():
            raise ValueError(
                "`attention_mask` must be padded on the left, got a 0 after a 1: use a tokenizer with "
                "`padding_side='left'`."
            )
    return input_ids.long()


def row_seeds(
    seed: int | list[int] | None, generator: torch.Generator | None, num_prompts: int, num_answers: int = 1
) -> torch.Tensor:
    """Return one seed per row, shape `(num_prompts * num_answers,)`: the given ones, or drawn from the generator.

    Raises:
        ValueError: if both are given, there are not as many seeds as prompts or rows, or one has more than 64 bits.
    """
    batch = num_prompts * num_answers
    if seed is None:
        device = generator.device if generator is not None else "cpu"
        return torch.randint(1 << 62, (batch,), generator=generator, device=device)
    if generator is not None:
        raise ValueError("`seed` must be None when a `generator` is given, got both.")
    seeds: list[Any] = list(seed) if isinstance(seed, list | tuple) else [seed] * num_prompts
    if len(seeds) not in (num_prompts, batch) or not all(isinstance(one, Integral) for one in seeds):
        raise ValueError(f"`seed` must be one integer or one for each of the {num_prompts} rows, got {seed!r}.")
    if len(seeds) < batch:
        seeds = [one + number for one in seeds for number in range(num_answers)]
    for one in seeds:
        if not -(1 << 63) <= one < 1 << 63:
            raise ValueError(f"`seed` must be in [-2^63, 2^63), got {one}.")
    return torch.tensor([int(one) for one in seeds], dtype=torch.long)


def _check_options(config: GenerationConfig | None) -> None:
    """Refuse options of other decoders in the caller's config, and what nobody knows."""
    given = {} if config is None else config.__dict__
    named = {name: value for name, value in given.items() if not name.startswith("_") and value is not None}
    named.pop("transformers_version", None)
    known = known_names()
    check_keywords({name: value for name, value in named.items() if name not in known}, {})


def _as_ours(config: GenerationConfig | None) -> DemaskGenerationConfig:
    if config is None:
        return DemaskGenerationConfig()
    if isinstance(config, DemaskGenerationConfig):
        config = copy.deepcopy(config)
        # A user may have assigned a name or an object to the attribute.
        config.set_strategy(config.strategy, {})
        return config
    return DemaskGenerationConfig.from_dict(config.to_dict())


def _fill(given: DemaskGenerationConfig, inherited: DemaskGenerationConfig) -> None:
    """Fill in the values that a config does not set."""
    for name, value in inherited.__dict__.items():
        if getattr(given, name) is None and not (name == "max_new_tokens" and given.max_length is not None):
            setattr(given, name, value)
