"""Limits of a model that a call must keep: its vocabulary, its positions, and the memory of its device."""

import os

import torch
from transformers.utils import logging

from ..backbones.backbone import Backbone
from ..strategies import DecodingSettings
from .configuration import DemaskGenerationConfig
from .inputs import check_vocabulary


logger = logging.get_logger(__name__)


def check_tokens(backbone: Backbone, config: DemaskGenerationConfig, prompts: torch.Tensor) -> None:
    """Refuse token ids outside the vocabulary, and a mask token that is the end or the padding, too."""
    vocab_size = backbone.vocab_size
    if vocab_size is not None and vocab_size < 2:
        raise ValueError(f"`vocab_size` of the model must be at least 2, a mask and a token, got {vocab_size}.")
    check_vocabulary("input_ids", prompts, vocab_size)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "suppress_tokens", "bad_words_ids"):
        check_vocabulary(name, getattr(config, name), vocab_size)
    for name in ("pad_token_id", "eos_token_id"):
        tokens = special_token(backbone, config, name)
        if backbone.mask_token_id in (tokens if isinstance(tokens, list | tuple) else [tokens]):
            raise ValueError(f"`{name}` must not be the mask token, got {backbone.mask_token_id}.")


def check_memory(backbone: Backbone, settings: DecodingSettings, num_rows: int) -> None:
    """Refuse sizes that exceed the memory of the device, whatever else is on it.

    Counted are token ids, positions and steps of all rows, and what a layer holds at once in its feed-forward part:
    the residual stream and two intermediate states, of all rows that run together.
    """
    config = getattr(backbone.model, "config", None)
    width, inner = (getattr(config, name, None) or 0 for name in ("hidden_size", "intermediate_size"))
    numbers = (parameter.dtype.itemsize for parameter in backbone.model.parameters() if parameter.is_floating_point())
    num_together = 1 if settings.batch_invariant else num_rows
    length = settings.prompt_length + settings.num_new_tokens
    needed = length * (
        num_rows * 4 * torch.long.itemsize + num_together * min(numbers, default=2) * (width + 2 * inner)
    )
    available = _memory_of(backbone.device)
    if available is not None and needed > available:
        raise ValueError(
            f"`max_new_tokens` must leave room in memory, got {settings.num_new_tokens} for {num_rows} rows, which "
            f"need at least {needed / 2**30:,.0f} GiB of {available / 2**30:,.0f}."
        )


def _memory_of(device: torch.device | None) -> int | None:
    """Return the bytes that a device has; `None` if nobody knows."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def check_positions(backbone: Backbone, positions: torch.Tensor) -> None:
    """Refuse a prompt and answer for which a table of positions is too short; warn where positions are computed."""
    config = getattr(backbone.model, "config", None)
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return
    if backbone.quirks.counts_positions:
        # These models begin to count behind the padding token.
        limit -= (getattr(config, "pad_token_id", None) or 0) + 1
    # The device is waited for in long batches only, whose padding may make them look too long.
    if positions.shape[1] <= limit or int(positions.max()) < limit:
        return
    if any(name.endswith("position_embeddings.weight") for name, _ in backbone.model.named_parameters()):
        raise ValueError(
            f"`input_ids` with `max_new_tokens` must not be longer than the {limit} positions of a "
            f"{type(backbone.model).__name__}, got {int(positions.max()) + 1}."
        )
    logger.warning_once(
        f"A {type(backbone.model).__name__} was made for {limit} positions, and a prompt with its answer is longer: "
        "what it predicts behind them may mean nothing."
    )


def special_token(backbone: Backbone, config: DemaskGenerationConfig, name: str) -> int | list[int] | None:
    """Return the ids of a special token, as the settings have them or else the model's config."""
    value = getattr(config, name)
    return value if value is not None else getattr(getattr(backbone.model, "config", None), name, None)
