"""What makes the body of a causal transformers model attend in both directions, for all native backbones."""

from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..functional.masking import left_padded_positions


# The mixin stands before the class of a causal body, such as `Qwen2Model`; type checkers take it for such a body.
_Body: Any = torch.nn.Module if TYPE_CHECKING else object


class BidirectionalMixin(_Body):
    """Goes before the class of a causal model's body: every position attends to every position that is not padding.

    Without an `attention_mask` all positions are attended; none is inferred from `pad_token_id`.

    Args:
        config (`PreTrainedConfig`):
            Configuration of the body.
    """

    #: The attention completes the columns that it computes with kept ones, see [`BlockCache`].
    _supports_block_cache = True

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
        if not isinstance(attention_mask, dict):
            if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
                position_ids = left_padded_positions(attention_mask)
            cache = kwargs.get("past_key_values")
            num_kept = 0 if cache is None else cache.get_seq_length()
            attention_mask = self._attention_mask(inputs_embeds, attention_mask, num_kept)
        # A cache that is given is used; none is made or returned.
        kwargs["use_cache"] = False
        return super().forward(
            attention_mask=attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds, **kwargs
        )

    def _attention_mask(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None, num_kept: int) -> Any:
        """Return the mask in a form that the parent's forward passes on as it is.

        With `num_kept` keys in a cache the inputs are some columns of rows of that length, else whole rows.
        """
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=inputs_embeds, attention_mask=attention_mask
        )
        layer_types = getattr(self.config, "layer_types", None)
        if layer_types is not None:
            return dict.fromkeys(layer_types, mask)
        if mask is None and (num_kept or self.config._attn_implementation == "eager"):
            # For `None` transformers 5.17, and for fewer queries than keys every version, would build a causal mask;
            # a mask of four dimensions they leave alone.
            length = inputs_embeds.shape[1]
            mask = inputs_embeds.new_zeros(1, 1, length, num_kept or length)
        return mask


__all__ = ["BidirectionalMixin"]
