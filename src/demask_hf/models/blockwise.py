"""Let the body of a causal transformers model attend from block to block; used by SDAR and LLaDA2."""

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..backbones.attention import check_takes_masks
from ..functional.masking import block_attention, left_padded_positions
from .bidirectional import BidirectionalMixin


class BlockCausalMixin(BidirectionalMixin):
    """Mixin before the class of a causal model's body: a position attends to its own block and to earlier ones.

    Blocks of `config.block_size` tokens are counted from the first token of a row. A mask of four dimensions is used
    as it is. Everything else is as in [`BidirectionalMixin`].
    """

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is not None and not isinstance(attention_mask, dict) and getattr(attention_mask, "ndim", 2) == 2:
            check_takes_masks(self.config, type(self).__name__)
            positions = self._positions(given, attention_mask, kwargs)
            blocks, length = positions // self.config.block_size, given.shape[1]
            dtype = self.embed_tokens.weight.dtype if inputs_embeds is None else inputs_embeds.dtype
            attention_mask = block_attention(blocks, blocks[:, -length:], attention_mask, dtype)
            position_ids = positions[:, -length:] if position_ids is None else position_ids
        return super().forward(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)

    def _positions(self, given: torch.Tensor, attention_mask: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        """Return the position of each key, counted from the first real token, shape `(batch, keys)`."""
        if attention_mask is not None:
            return left_padded_positions(attention_mask)
        caches = [kwargs.get(name) for name in ("cache", "past_key_values")]
        num_keys = given.shape[1] + sum(cache.get_seq_length() for cache in caches if cache is not None)
        return torch.arange(num_keys, device=given.device).expand(len(given), -1)


__all__ = ["BlockCausalMixin"]
