"""The SDAR model, as its difference from Qwen3: attention is causal between blocks and full within one."""

import torch
from transformers import Qwen3ForCausalLM, Qwen3Model

from ...generation.mixin import DemaskGenerationMixin
from ..blockwise import BlockCausalMixin
from ..checkpoint import WholeCheckpointMixin
from .configuration_sdar import SDARConfig


class SDARModel(BlockCausalMixin, Qwen3Model):
    """Qwen3 blocks with block-causal attention; returns hidden states of shape `(batch, length, hidden_size)`."""

    config: SDARConfig


class SDARForCausalLM(DemaskGenerationMixin, WholeCheckpointMixin, Qwen3ForCausalLM):
    """SDAR with its output embedding: the logits at a position predict the token at that position.

    `generate` decodes block by block, see [`DemaskGenerationMixin`]. Labels passed to `forward` are at their own
    positions, -100 where nothing is to be predicted. The class has the name that published configs use.

    Args:
        config ([`SDARConfig`]):
            The model's configuration.
    """

    config: SDARConfig
    config_class = SDARConfig

    def __init__(self, config: SDARConfig):
        # Skips the constructor of Qwen3ForCausalLM, which would build the causal model first.
        super(Qwen3ForCausalLM, self).__init__(config)
        self.model = SDARModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.loss_type = "ForMaskedLM"
        self.post_init()


__all__ = ["SDARForCausalLM", "SDARModel"]
