"""Let the body of a causal transformers model attend in both directions; used by all native backbones."""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..functional.masking import left_padded_positions


# The mixin precedes the class of a causal body, such as `Qwen2Model`; for type checkers it is such a body.
_Body: Any = torch.nn.Module if TYPE_CHECKING else object


class BidirectionalMixin(_Body):
    """Mixin before the class of a causal model's body: every position attends to all positions except padding.

    Without an `attention_mask` all positions are attended; none is inferred from `pad_token_id`. A cache may be given
    as `cache` or as `past_key_values`, its name before transformers 5.24; its keys are attended too.

    Args:
        config (`PreTrainedConfig`):
            Configuration of the body.
    """

    #: The attention combines computed columns with stored ones, see [`BlockCache`].
    _supports_block_cache = True
    #: What the parent's forward calls a cache.
    _cache_argument = "past_key_values"

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        parent = getattr(super(), "forward", None)
        if parent is not None and "cache" in inspect.signature(parent).parameters:
            cls._cache_argument = "cache"

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        # SDPA and flash attention read this flag whenever no mask tensor is passed, that is, without padding.
        for layer in self.layers:
            layer.self_attn.is_causal = False

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("`input_ids` or `inputs_embeds` must be given, and not both.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        cache = self._given_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
        if not isinstance(attention_mask, dict):
            length = inputs_embeds.shape[1]
            if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
                position_ids = left_padded_positions(attention_mask)[:, -length:]
            has_keys = cache is not None and cache.get_seq_length() > 0
            num_keys = cache.get_mask_sizes(length, 0)[0] if has_keys else 0
            attention_mask = self._attention_mask(inputs_embeds, attention_mask, num_keys)
        # A given cache is used; none is created or returned.
        kwargs |= {"use_cache": False, self._cache_argument: cache}
        return super().forward(
            attention_mask=attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds, **kwargs
        )

    def _given_cache(self, cache: Any, past_key_values: Any) -> Any:
        """Return the cache that was given under one of its two names.

        Raises:
            ValueError: if it was given twice, if it has a fixed length, whose unused part would be attended, or if
                layers would be recomputed, which fills a cache twice.
        """
        if cache is not None and past_key_values is not None:
            raise ValueError("`cache` must be None where `past_key_values`, its older name, is given, got both.")
        cache = past_key_values if cache is None else cache
        if cache is None:
            return None
        if not isinstance(cache, Cache) or cache.get_max_length(0) != -1:
            raise ValueError(
                f"`cache` must be a cache without a fixed length, such as `DynamicCache`, got a "
                f"{type(cache).__name__}."
            )
        if self.training and any(getattr(layer, "gradient_checkpointing", False) for layer in self.layers):
            raise ValueError(
                f"`cache` must be None in train mode with gradient checkpointing, got a {type(cache).__name__}: call "
                "`model.eval()` first."
            )
        return cache

    def _attention_mask(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None, num_keys: int) -> Any:
        """Return the mask in a form that the parent's forward uses unchanged.

        If a cache has keys, there are `num_keys` of them with those of the inputs; else it is 0.
        """
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=inputs_embeds, attention_mask=attention_mask
        )
        layer_types = getattr(self.config, "layer_types", None)
        if layer_types is not None:
            return dict.fromkeys(layer_types, mask)
        if mask is None and (num_keys or self.config._attn_implementation == "eager"):
            # Transformers would build a causal mask for `None` (5.17) and for fewer queries than keys (all versions);
            # it leaves a four-dimensional mask unchanged.
            length = inputs_embeds.shape[1]
            mask = inputs_embeds.new_zeros(1, 1, length, num_keys or length)
        return mask


__all__ = ["BidirectionalMixin"]
