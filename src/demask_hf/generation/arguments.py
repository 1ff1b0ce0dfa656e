"""From the arguments of `generate` to a resolved config, checked prompts and seeds."""

import copy
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from ..strategies import UnmaskingStrategy, make_strategy
from ..strategies.base import fields_of
from .canvases import CANVAS_FIELDS, of_canvases
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
    config = _as_ours(generation_config, getattr(model, "generation_config", None))
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


def _check_options(config: GenerationConfig | None) -> None:
    """Refuse options of other decoders in the caller's config, and what nobody knows."""
    given = {} if config is None else config.__dict__
    named = {name: value for name, value in given.items() if not name.startswith("_") and value is not None}
    named.pop("transformers_version", None)
    known = {*known_names(), *CANVAS_FIELDS} if hasattr(config, CANVAS_FIELDS[0]) else known_names()
    check_keywords({name: value for name, value in named.items() if name not in known}, {})


def _as_ours(config: GenerationConfig | None, inherited: GenerationConfig | None = None) -> DemaskGenerationConfig:
    if config is None:
        return DemaskGenerationConfig()
    if isinstance(config, DemaskGenerationConfig):
        config = copy.deepcopy(config)
        # A user may have assigned a name or an object to the attribute.
        config.set_strategy(config.strategy, {})
        return config
    if hasattr(config, CANVAS_FIELDS[0]):
        return of_canvases(config, inherited)
    return DemaskGenerationConfig.from_dict(config.to_dict())


def _fill(given: DemaskGenerationConfig, inherited: DemaskGenerationConfig) -> None:
    """Fill in the values that a config does not set."""
    for name, value in inherited.__dict__.items():
        if getattr(given, name) is None and not (name == "max_new_tokens" and given.max_length is not None):
            setattr(given, name, value)
