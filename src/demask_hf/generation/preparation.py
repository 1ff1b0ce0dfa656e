"""From the arguments of `generate` to a loop and its first state; every check runs here, before the model does."""

import copy
import dataclasses
import functools
from numbers import Integral
from typing import Any

import torch
from transformers import GenerationConfig

from ..backbones.backbone import Backbone
from ..backbones.compiling import CompiledBackbone, CompiledHead
from ..functional.masking import left_padded_positions
from ..strategies import UnmaskingStrategy, make_strategy
from .caching import check_can_cache
from .configuration import DemaskGenerationConfig, check_keywords
from .loop import DenoisingLoop
from .state import DecodingSettings, DecodingState


_DEFAULT_NEW_TOKENS = 256


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
        check_keywords(fields, {field.name: None for field in dataclasses.fields(strategy) if field.init})
        rule = dataclasses.replace(strategy, **fields)
    else:
        if strategy is None and config.strategy is None:
            strategy = "threshold" if getattr(model, "demask_head", None) is None else "demask"
        config.set_strategy(strategy, fields)
        rule = make_strategy(**config.strategy)
    if is_plan and not rule.follows_schedule and "max_denoising_steps" not in settings:
        config.max_denoising_steps = None
    for name, value in config._get_default_generation_params().items():
        if getattr(config, name) is None:
            setattr(config, name, value)
    if config.do_sample is False:
        config.temperature = 0.0
    config.validate()
    return config, rule


def prepare_loop(
    backbone: Backbone, rule: UnmaskingStrategy, config: DemaskGenerationConfig, prompts: torch.LongTensor
) -> DenoisingLoop:
    """Return the loop for a resolved config.

    Raises:
        ValueError: if lengths, blocks or steps do not fit each other, the prompts do not end alike, or the model
            takes no cache.
    """
    if config.cache != "none":
        check_can_cache(backbone, config.cache)
    if rule.needs_attentions or rule.needs_context_confidence:
        _check_nothing_hides_positions(rule, config)
    prompt_length = prompts.shape[1]
    num_new = _num_new_tokens(config, prompt_length)
    num_closing = _num_closing_tokens(backbone, prompts) if num_new else 0
    block_length = config.block_length or _default_block_length(backbone, num_new)
    if num_new % block_length:
        raise ValueError(f"`block_length` must divide `max_new_tokens` ({num_new}), got {block_length}.")
    num_blocks = max(num_new // block_length, 1)
    steps = config.max_denoising_steps
    if rule.follows_schedule and steps is not None and steps < num_blocks:
        raise ValueError(f"`max_denoising_steps` must be at least one per block ({num_blocks}), got {steps}.")
    eos = _special_token(backbone, config, "eos_token_id")
    eos_token_ids = eos if isinstance(eos, list | tuple) else [] if eos is None else [eos]
    pad = _special_token(backbone, config, "pad_token_id")
    if pad is None and eos_token_ids:
        pad = eos_token_ids[0]
    settings = DecodingSettings(
        prompt_length=prompt_length - num_closing,
        num_new_tokens=num_new,
        block_length=block_length,
        num_blocks=num_blocks,
        num_steps=steps if rule.follows_schedule else None,
        max_steps=None if rule.follows_schedule else steps,
        temperature=float(config.temperature),
        top_p=config.top_p,
        top_k=config.top_k or None,
        eos_token_ids=list(eos_token_ids) if config.stop_at_eos else [],
        pad_token_id=pad,
        cache=config.cache,
        cache_refresh_interval=config.cache_refresh_interval,
        cache_commits_first=config.cache_commits_first,
    )
    if config.compile:
        backbone = CompiledBackbone(backbone, config.compile)
    return DenoisingLoop(backbone, rule, settings)


def bind_strategy(rule: UnmaskingStrategy, model: torch.nn.Module, config: DemaskGenerationConfig) -> None:
    """Give a strategy what it needs from the model, compiled if the config says so.

    Raises:
        ValueError: if the model lacks what the strategy needs, or it cannot be compiled.
    """
    rule.bind(model)
    if config.compile:
        rule.compile(functools.partial(CompiledHead, compile=config.compile))


def _check_nothing_hides_positions(rule: UnmaskingStrategy, config: DemaskGenerationConfig) -> None:
    for name, plain in (("cache", "none"), ("compile", False)):
        if getattr(config, name) not in (plain, None):
            raise ValueError(
                f"`{name}` must be {plain!r} for strategy {rule.name!r}, which looks at every position in every step, "
                f"got {getattr(config, name)!r}."
            )


def prepare_state(
    loop: DenoisingLoop,
    input_ids: torch.LongTensor | None,
    attention_mask: torch.Tensor | None,
    seed: int | list[int] | None,
    generator: torch.Generator | None,
    token_type_ids: torch.LongTensor | None = None,
) -> DecodingState:
    """Return the state before the first step: the prompts followed by masks, then by a closing token that is kept.

    Raises:
        ValueError: if the prompts, the attention mask, the token types or the seeds do not fit.
    """
    mask_token_id, num_new = loop.backbone.mask_token_id, loop.settings.num_new_tokens
    input_ids = check_prompts(input_ids, attention_mask).to(loop.backbone.device or input_ids.device)
    if num_new == 0 and not (input_ids == mask_token_id).any():
        raise ValueError("`max_new_tokens` must be at least 1 for a prompt without mask tokens, got 0.")
    start = loop.settings.prompt_length
    masks = input_ids.new_full((input_ids.shape[0], num_new), mask_token_id)
    sequences = torch.cat([input_ids[:, :start], masks, input_ids[:, start:]], dim=1)
    token_type_ids = _extended_types(loop.backbone, token_type_ids, input_ids, num_new)
    positions = torch.arange(sequences.shape[1], device=sequences.device).expand_as(sequences)
    if attention_mask is not None:
        attention_mask = attention_mask.to(sequences)
        if attention_mask.all():
            attention_mask = None
        else:
            attention_mask = torch.nn.functional.pad(attention_mask, (0, num_new), value=1)
            positions = left_padded_positions(attention_mask)
    seeds = row_seeds(seed, generator, sequences.shape[0]).to(sequences.device)
    return DecodingState(sequences, attention_mask, positions, seeds, token_type_ids)


def check_prompts(input_ids: torch.LongTensor | None, attention_mask: torch.Tensor | None) -> torch.LongTensor:
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


def row_seeds(seed: int | list[int] | None, generator: torch.Generator | None, batch: int) -> torch.LongTensor:
    """Return one seed per row, shape `(batch,)`: the given ones, or drawn from the generator.

    Raises:
        ValueError: if both are given, there are not as many seeds as rows, or one has more than 64 bits.
    """
    if seed is None:
        device = generator.device if generator is not None else "cpu"
        return torch.randint(1 << 62, (batch,), generator=generator, device=device)
    if generator is not None:
        raise ValueError("`seed` must be None when a `generator` is given, got both.")
    seeds = [seed] * batch if isinstance(seed, Integral) else list(seed)
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


def _num_new_tokens(config: DemaskGenerationConfig, prompt_length: int) -> int:
    if config.max_new_tokens is not None:
        return config.max_new_tokens
    if config.max_length is None:
        return _DEFAULT_NEW_TOKENS
    if config.max_length < prompt_length:
        raise ValueError(
            f"`max_length` must be at least the length of the prompt ({prompt_length}), got {config.max_length}."
        )
    return config.max_length - prompt_length


def _default_block_length(backbone: Backbone, num_new: int) -> int:
    """Return the backbone's own block length where it divides the answer, else the whole answer."""
    own = backbone.quirks.block_length
    return own if own is not None and num_new and num_new % own == 0 else max(num_new, 1)


def _num_closing_tokens(backbone: Backbone, prompts: torch.LongTensor) -> int:
    """Return 1 if all prompts end with a special token that stays last, such as [SEP], and 0 if none does."""
    closing = backbone.quirks.closing_token_id
    if closing is None:
        return 0
    is_closed = prompts[:, -1] == closing
    if is_closed.any() and not is_closed.all():
        row = int((~is_closed).nonzero()[0])
        raise ValueError(
            f"`input_ids` must end with token {closing} in all rows or in none, got row {row} without it."
        )
    return int(is_closed.all())


def _extended_types(
    backbone: Backbone, token_type_ids: torch.LongTensor | None, input_ids: torch.LongTensor, num_new: int
) -> torch.LongTensor | None:
    """Return the token types of the whole sequences: what continues a prompt is of its last token's type."""
    if token_type_ids is None:
        return None
    if token_type_ids.shape != input_ids.shape:
        shapes = f"{tuple(input_ids.shape)}, got {tuple(token_type_ids.shape)}"
        raise ValueError(f"`token_type_ids` must have the shape of `input_ids` {shapes}.")
    token_type_ids = token_type_ids.to(input_ids)
    if not backbone.takes("token_type_ids"):
        if token_type_ids.any():
            name = type(backbone.model).__name__
            raise ValueError(f"`token_type_ids` must be 0 for a {name}, which has no token types, got others.")
        return None
    return torch.cat([token_type_ids, token_type_ids[:, -1:].expand(-1, num_new)], dim=1)


def _special_token(backbone: Backbone, config: DemaskGenerationConfig, name: str) -> int | list[int] | None:
    value = getattr(config, name)
    return value if value is not None else getattr(getattr(backbone.model, "config", None), name, None)
