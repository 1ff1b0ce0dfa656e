"""Configuration of the Dream masked diffusion language models."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Qwen2Config

from ..fields import check_sizes, in_a_sentence
from ..lookalikes import check_lookalike


@in_a_sentence
@strict
class DreamConfig(Qwen2Config):
    """Describe a Dream backbone; the defaults are those of Dream-7B.

    A Dream model is a Qwen2 model without a causal mask, whose output at position `i - 1` predicts the token at
    position `i`. All arguments of [`~transformers.Qwen2Config`] apply.

    Args:
        mask_token_id (`int`, *optional*, defaults to 151666):
            Id of the token at positions that are not unmasked yet.

    Raises:
        ValueError: if the config describes another model under the same `model_type`, such as DreamOn, or a field has
            another type or an impossible size.

    Example:

    ```python
    >>> from demask_hf import DreamConfig, DreamModel

    >>> config = DreamConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    ...                      num_attention_heads=4, num_key_value_heads=2, mask_token_id=1, pad_token_id=0,
    ...                      bos_token_id=0, eos_token_id=0)
    >>> DreamModel(config).config.is_causal
    False

    ```
    """

    model_type = "Dream"

    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int | None = 4
    max_position_embeddings: int = 131072
    default_theta = 1000000.0
    pad_token_id: int | None = 151643
    bos_token_id: int | None = 151643
    eos_token_id: int | list[int] | None = 151643
    mask_token_id: int | None = 151666
    is_causal: bool = False

    def __post_init__(self, **kwargs: Any):
        check_lookalike(type(self).model_type, self.architectures, kwargs)
        if kwargs.get("expand_token_id") is not None:
            raise ValueError(
                f"`expand_token_id` must be None in the config of a DreamModel, got {kwargs['expand_token_id']!r}: "
                "DreamOn lengthens and shortens its answers while it decodes, which is not done here."
            )
        # The Hub's code does not run on transformers 5; a saved copy must not refer older versions to it.
        kwargs.pop("auto_map", None)
        check_sizes(self)
        super().__post_init__(**kwargs)


__all__ = ["DreamConfig"]
