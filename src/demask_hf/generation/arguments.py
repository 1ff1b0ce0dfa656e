"""From what the caller of `generate` gives to a resolved config, checked prompts and seeds."""

import copy
from numbers import Integral
from typing import Any

import torch
from transformers import GenerationConfig

from ..strategies import UnmaskingStrategy, make_strategy
from ..strategies.base import fields_of
from .configuration import DemaskGenerationConfig, check_keywords


def resolve_config(
    model: torch.nn.Module,
    generation_config: GenerationConfig | None,
    strategy: str | dict | UnmaskingStrategy | None,
    overrides: dict[str, Any],
) -> tuple[DemaskGenerationConfig, UnmaskingStrategy]:
    """Merge keywords, the given config, the model's config and defaults, in this order of precedence.

    Args:
        model (`torch.nn.Module`):
            The model, asked for its `generation_config` and whether it has a head.
        generation_config (`GenerationConfig`, *optional*):
            The config that the caller gave.
        strategy (`str`, `dict` or [`UnmaskingStrategy`], *optional*):
            The strategy that the caller gave.
        overrides (`dict[str, Any]`):
            The caller's keywords.

    Returns:
        `tuple[DemaskGenerationConfig, UnmaskingStrategy]`: the merged config, whose `max_denoising_steps` is `None`
        where the strategy must not see it, and a fresh strategy.

    Raises:
        ValueError: if a keyword is unknown or a value is outside its range.
    """
    inherited, config = _as_ours(getattr(model, "generation_config", None)), _as_ours(generation_config)
    settings = {name: value for name, value in overrides.items() if name in config.__dict__}
    # The steps of a schedule do not outlive a change of strategy; steps from anywhere else are a cap then.
    is_plan = (inherited if config.max_denoising_steps is None else config).is_schedule
    _fill(config, inherited)
    if "max_length" in settings:
        config.max_new_tokens = None
    if settings.get("temperature") and "do_sample" not in settings:
        # Asking for a temperature is asking to sample, whatever the checkpoint says.
        config.do_sample = None
    for name, value in settings.items():
        setattr(config, name, value)
    fields = {name: value for name, value in overrides.items() if name not in settings}
    if isinstance(strategy, UnmaskingStrategy):
        check_keywords(fields, fields_of(type(strategy)))
        rule = strategy.fresh(**fields)
    else:
        if strategy is None and config.strategy is None:
            strategy = "threshold" if getattr(model, "demask_head", None) is None else "demask"
        config.set_strategy(strategy, fields)
        rule = make_strategy(**(config.strategy or {}))
    if is_plan and not rule.follows_schedule and "max_denoising_steps" not in settings:
        config.max_denoising_steps = None
    for name, value in config._get_default_generation_params().items():
        if getattr(config, name) is None:
            setattr(config, name, value)
    if config.do_sample is False:
        config.temperature = 0.0
    config.validate()
    return config, rule


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


def row_seeds(seed: int | list[int] | None, generator: torch.Generator | None, batch: int) -> torch.Tensor:
    """Return one seed per row, shape `(batch,)`: the given ones, or drawn from the generator.

    Raises:
        ValueError: if both are given, there are not as many seeds as rows, or one has more than 64 bits.
    """
    if seed is None:
        device = generator.device if generator is not None else "cpu"
        return torch.randint(1 << 62, (batch,), generator=generator, device=device)
    if generator is not None:
        raise ValueError("`seed` must be None when a `generator` is given, got both.")
    seeds = list(seed) if isinstance(seed, list | tuple) else [seed] * batch
    if len(seeds) != batch or not all(isinstance(one, Integral) for one in seeds):
        raise ValueError(f"`seed` must be one integer or one for each of the {batch} rows, got {seed!r}.")
    for one in seeds:
        if not -(1 << 63) <= one < 1 << 63:
            raise ValueError(f"`seed` must be in [-2^63, 2^63), got {one}.")
    return torch.tensor([int(one) for one in seeds], dtype=torch.long)


def _as_ours(config: GenerationConfig | None) -> DemaskGenerationConfig:
    if config is None:
        return DemaskGenerationConfig()
    if isinstance(config, DemaskGenerationConfig):
        config = copy.deepcopy(config)
        # Somebody may have assigned a name or an object to the attribute.
        config.set_strategy(config.strategy, {})
        return config
    return DemaskGenerationConfig.from_dict(config.to_dict())


def _fill(given: DemaskGenerationConfig, inherited: DemaskGenerationConfig) -> None:
    """Fill what a config does not set."""
    for name, value in inherited.__dict__.items():
        if getattr(given, name) is None and not (name == "max_new_tokens" and given.max_length is not None):
            setattr(given, name, value)
