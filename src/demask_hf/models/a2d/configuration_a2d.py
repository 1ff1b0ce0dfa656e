"""Configurations of the A2D models: those of Qwen3, Qwen2 and Llama, with a mask token."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from ...validation import check_count
from ..fields import check_sizes, in_a_sentence
from ..lookalikes import check_lookalike


class _A2DFields:
    """What the three have in common; the classes that follow add the fields of their transformers model."""

    def __post_init__(self, **kwargs: Any):
        check_lookalike(type(self).model_type, self.architectures, kwargs)  # type: ignore[attr-defined]
        # The published code does not run on transformers 5; a saved copy must not refer older versions to it.
        kwargs.pop("auto_map", None)
        check_sizes(self)
        if self.block_size is not None:  # type: ignore[attr-defined]
            check_count("block_size", self.block_size)  # type: ignore[attr-defined]
        super().__post_init__(**kwargs)  # type: ignore[misc]


@in_a_sentence
@strict
class A2DQwen3Config(_A2DFields, Qwen3Config):
    """Configuration of a Qwen3 that fills masks, see [`~transformers.Qwen3Config`].

    Args:
        mask_token_id (`int`, *optional*):
            Id of the mask token. Published configs do not have it: it is taken from the tokenizer by `load_model`.
        block_size (`int`, *optional*):
            Length of a block for a checkpoint of block diffusion (bd3lm), which `generate` then decodes block by
            block. Published configs do not have it; it is 32, the default of the public sampler, where the name of
            the model contains "bd3lm".
        kwargs:
            Fields of [`~transformers.Qwen3Config`].
    """

    model_type = "a2d-qwen3"

    mask_token_id: int | None = None
    block_size: int | None = None
    is_causal: bool = False


@in_a_sentence
@strict
class A2DQwen2Config(_A2DFields, Qwen2Config):
    """Configuration of a Qwen2 that fills masks, see [`A2DQwen3Config`] and [`~transformers.Qwen2Config`].

    Args:
        mask_token_id (`int`, *optional*):
            Id of the mask token.
        block_size (`int`, *optional*):
            Length of a block, for block diffusion.
        kwargs:
            Fields of [`~transformers.Qwen2Config`].
    """

    model_type = "a2d-qwen2"

    mask_token_id: int | None = None
    block_size: int | None = None
    is_causal: bool = False


@in_a_sentence
@strict
class A2DLlamaConfig(_A2DFields, LlamaConfig):
    """Configuration of a Llama that fills masks, see [`A2DQwen3Config`] and [`~transformers.LlamaConfig`].

    Args:
        mask_token_id (`int`, *optional*):
            Id of the mask token.
        block_size (`int`, *optional*):
            Length of a block, for block diffusion.
        kwargs:
            Fields of [`~transformers.LlamaConfig`].
    """

    model_type = "a2d-llama"

    mask_token_id: int | None = None
    block_size: int | None = None
    is_causal: bool = False


__all__ = ["A2DLlamaConfig", "A2DQwen2Config", "A2DQwen3Config"]
