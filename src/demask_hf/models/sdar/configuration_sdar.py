"""Configuration of the SDAR models: that of Qwen3, with a mask token and the length of a block."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Qwen3Config

from ...validation import check_count
from ..fields import check_sizes, in_a_sentence
from ..lookalikes import check_lookalike


@in_a_sentence
@strict
class SDARConfig(Qwen3Config):
    """Configuration of a Qwen3 that fills one block of masks after another, see [`~transformers.Qwen3Config`].

    Args:
        mask_token_id (`int`, *optional*):
            Id of the mask token. Some published configs do not have it: `load_model` takes it from the tokenizer.
        block_size (`int`, *optional*, defaults to 4):
            Tokens in a block, counted from the first one. Published configs may lack it; checkpoints with other
            blocks say so in their names (`-b8`, `-b16`, ...) only: pass `block_size` when such a one is loaded.
        kwargs:
            Fields of [`~transformers.Qwen3Config`].

    Raises:
        ValueError: if a size is impossible.
    """

    model_type = "sdar"

    mask_token_id: int | None = None
    block_size: int = 4
    is_causal: bool = False

    def __post_init__(self, **kwargs: Any):
        check_lookalike(type(self).model_type, self.architectures, kwargs)
        # The published code does not run on transformers 5; a saved copy must not refer older versions to it.
        kwargs.pop("auto_map", None)
        # Published for training. The mask of the blocks takes SDPA or eager attention.
        kwargs.pop("attn_implementation", None)
        check_sizes(self)
        check_count("block_size", self.block_size)
        super().__post_init__(**kwargs)


__all__ = ["SDARConfig"]
