"""The Dream model, written as its difference from Qwen2: every position attends to every position."""

import functools
from typing import Any

import torch
from transformers import Qwen2ForCausalLM, Qwen2Model
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..bidirectional import BidirectionalMixin
from ..checkpoint import WholeCheckpointMixin
from .configuration_dream import DreamConfig
from .generation_dream import DreamGenerationMixin


class DreamBaseModel(BidirectionalMixin, Qwen2Model):
    """Qwen2 blocks without the causal mask; returns hidden states of shape `(batch, length, hidden_size)`."""

    config: DreamConfig


class ShiftedLMOutput(CausalLMOutputWithPast):
    """The output of a model whose logits at position `i - 1` predict the token at position `i`."""

    def __setitem__(self, key: str, value: Any) -> None:
        # Only that pipeline puts token ids beside the logits.
        if key == "input_ids":
            raise NotImplementedError(
                "The pipeline 'fill-mask' reads the logits at a mask, and this model predicts a token one position "
                "before it: use `generate(max_new_tokens=0)`, which fills the masks of a prompt."
            )
        super().__setitem__(key, value)


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

    @functools.wraps(Qwen2ForCausalLM.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        output = super().forward(*args, **kwargs)
        return output if isinstance(output, tuple) else ShiftedLMOutput(**output)


__all__ = ["DreamBaseModel", "DreamModel"]
