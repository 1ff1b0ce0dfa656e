"""The Dream model, written as its difference from Qwen2: every position attends to every position."""

import torch
from transformers import Qwen2ForCausalLM, Qwen2Model

from ..bidirectional import BidirectionalMixin
from ..checkpoint import WholeCheckpointMixin
from .configuration_dream import DreamConfig
from .generation_dream import DreamGenerationMixin


class DreamBaseModel(BidirectionalMixin, Qwen2Model):
    """Qwen2 blocks without the causal mask; returns hidden states of shape `(batch, length, hidden_size)`."""

    config: DreamConfig


class DreamModel(DreamGenerationMixin, WholeCheckpointMixin, Qwen2ForCausalLM):
    """Dream with its output embedding: the logits at position `i - 1` predict the token at position `i`.

    `generate` decodes by unmasking, see [`DemaskGenerationMixin`], and `diffusion_generate` as in Dream's own code.
    Labels passed to `forward` are at their own positions, -100 where nothing is to be predicted; the loss applies the
    shift.

    Args:
        config ([`DreamConfig`]):
            The model's configuration.
    """

    config: DreamConfig
    config_class = DreamConfig

    def __init__(self, config: DreamConfig):
        # Skips the constructor of Qwen2ForCausalLM, which would build the causal model first.
        super(Qwen2ForCausalLM, self).__init__(config)
        self.model = DreamBaseModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


__all__ = ["DreamBaseModel", "DreamModel"]
