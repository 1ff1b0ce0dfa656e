"""The Dream model as its difference from Qwen2: every position attends to every position."""

import torch
from transformers import Qwen2ForCausalLM, Qwen2Model
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

from ...generation import DemaskGenerationMixin
from .configuration_dream import DreamConfig


class DreamBackbone(Qwen2Model):
    """Qwen2 blocks without the causal mask; returns hidden states of shape `(batch, length, hidden_size)`."""

    config: DreamConfig

    def __init__(self, config: DreamConfig):
        super().__init__(config)
        # SDPA and flash attention read this flag whenever no mask tensor is passed, that is, without padding.
        for layer in self.layers:
            layer.self_attn.is_causal = False

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | dict | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("`input_ids` or `inputs_embeds` must be given, and not both.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if not isinstance(attention_mask, dict):
            if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
                # Left padding: positions count real tokens only.
                position_ids = (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 1)
            mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=inputs_embeds, attention_mask=attention_mask
            )
            attention_mask = dict.fromkeys(self.config.layer_types, mask)
        kwargs["use_cache"] = False
        return super().forward(
            attention_mask=attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds, **kwargs
        )


class DreamModel(DemaskGenerationMixin, Qwen2ForCausalLM):
    """Dream with its output embedding: the logits at position `i - 1` predict the token at position `i`.

    `generate` decodes by unmasking, see [`DemaskGenerationMixin`]. Labels given to `forward` stand at their own
    positions, -100 where nothing is to be predicted; the loss applies the shift.

    Args:
        config ([`DreamConfig`]):
            The model's configuration.
    """

    config: DreamConfig
    config_class = DreamConfig

    def __init__(self, config: DreamConfig):
        # Past Qwen2ForCausalLM, whose constructor would build the causal model first.
        super(Qwen2ForCausalLM, self).__init__(config)
        self.model = DreamBackbone(config)
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


__all__ = ["DreamBackbone", "DreamModel"]
