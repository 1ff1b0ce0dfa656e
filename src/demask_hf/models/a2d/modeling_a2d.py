"""The A2D models, as their difference from Qwen3, Qwen2 and Llama: every position attends to every position."""

from typing import Any

import torch
from transformers import LlamaForCausalLM, LlamaModel, Qwen2ForCausalLM, Qwen2Model, Qwen3ForCausalLM, Qwen3Model

from ...generation.mixin import DemaskGenerationMixin
from ..bidirectional import BidirectionalMixin
from ..checkpoint import WholeCheckpointMixin
from .configuration_a2d import A2DLlamaConfig, A2DQwen2Config, A2DQwen3Config


# The default of the public sampler of block diffusion.
_BLOCK_SIZE = 32


class A2DQwen3Model(BidirectionalMixin, Qwen3Model):
    """Qwen3 blocks without the causal mask; returns hidden states of shape `(batch, length, hidden_size)`."""

    config: A2DQwen3Config


class A2DQwen2Model(BidirectionalMixin, Qwen2Model):
    """Qwen2 blocks without the causal mask; returns hidden states of shape `(batch, length, hidden_size)`."""

    config: A2DQwen2Config


class A2DLlamaModel(BidirectionalMixin, LlamaModel):
    """Llama blocks without the causal mask; returns hidden states of shape `(batch, length, hidden_size)`."""

    config: A2DLlamaConfig


class _WithHead:
    """What the three have in common: a body without the causal mask, its output embedding, and a loss at its place."""

    _body: Any

    def __init__(self, config: Any):
        # Models of block diffusion have the same class and config: only their names tell them apart.
        if config.block_size is None and "bd3lm" in str(config.name_or_path).lower():
            config.block_size = _BLOCK_SIZE
        # Skips the constructor of the causal model, which would build its body first.
        super(self._causal, self).__init__(config)  # type: ignore[attr-defined, call-arg]
        self.model = self._body(config)
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.loss_type = "ForMaskedLM"
        self.post_init()  # type: ignore[attr-defined]


class A2DQwen3LMHeadModel(_WithHead, DemaskGenerationMixin, WholeCheckpointMixin, Qwen3ForCausalLM):
    """A Qwen3 that fills masks: the logits at a position predict the token at that position.

    `generate` decodes by unmasking, see [`DemaskGenerationMixin`]. Labels passed to `forward` are at their own
    positions, -100 where nothing is to be predicted. The class has the name that published configs use.

    Args:
        config ([`A2DQwen3Config`]):
            The model's configuration.
    """

    config: A2DQwen3Config
    config_class = A2DQwen3Config
    _body, _causal = A2DQwen3Model, Qwen3ForCausalLM


class A2DQwen2LMHeadModel(_WithHead, DemaskGenerationMixin, WholeCheckpointMixin, Qwen2ForCausalLM):
    """A Qwen2 that fills masks, see [`A2DQwen3LMHeadModel`].

    Args:
        config ([`A2DQwen2Config`]):
            The model's configuration.
    """

    config: A2DQwen2Config
    config_class = A2DQwen2Config
    _body, _causal = A2DQwen2Model, Qwen2ForCausalLM


class A2DLlamaLMHeadModel(_WithHead, DemaskGenerationMixin, WholeCheckpointMixin, LlamaForCausalLM):
    """A Llama that fills masks, see [`A2DQwen3LMHeadModel`].

    Args:
        config ([`A2DLlamaConfig`]):
            The model's configuration.
    """

    config: A2DLlamaConfig
    config_class = A2DLlamaConfig
    _body, _causal = A2DLlamaModel, LlamaForCausalLM


__all__ = [
    "A2DLlamaLMHeadModel",
    "A2DLlamaModel",
    "A2DQwen2LMHeadModel",
    "A2DQwen2Model",
    "A2DQwen3LMHeadModel",
    "A2DQwen3Model",
]
