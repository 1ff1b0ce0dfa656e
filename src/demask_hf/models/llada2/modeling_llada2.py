"""The LLaDA2 model, as its difference from Glm4Moe: attention is causal between blocks and full within one."""

from typing import Any

import torch
from transformers import Glm4MoeForCausalLM, Glm4MoeModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

from ...generation.mixin import DemaskGenerationMixin
from ..blockwise import BlockCausalMixin
from ..checkpoint import WholeCheckpointMixin
from .configuration_llada2 import LLaDA2MoeConfig


# Names on the Hub and here. Checkpoints are saved under the Hub's names again.
_RENAMED = {
    r"^model\.word_embeddings\.": "model.embed_tokens.",
    r"\.attention\.": ".self_attn.",
    r"\.self_attn\.dense\.": ".self_attn.o_proj.",
    r"\.self_attn\.query_layernorm\.": ".self_attn.q_norm.",
    r"\.self_attn\.key_layernorm\.": ".self_attn.k_norm.",
    r"\.mlp\.gate\.expert_bias": ".mlp.gate.e_score_correction_bias",
}


class _SplitHeads(Chunk):
    """Separate queries, keys and values; older transformers have no operation for parts of unequal size."""

    # The two classes above it in transformers disagree on the types.
    @torch.no_grad()
    def convert(  # type: ignore[override]
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        (found,) = input_dict.values()
        tensor, config = found[0] if isinstance(found, list) else found, kwargs["config"]
        counts = (config.num_attention_heads, *2 * (config.num_key_value_heads,))
        parts = tensor.split([count * config.head_dim for count in counts], dim=self.dim)
        return {name: part.contiguous() for name, part in zip(target_patterns, parts, strict=True)}


def _conversions() -> list[WeightConverter | WeightRenaming]:
    """Return how tensors of the Hub become ours: experts are stacked, and queries, keys and values are separated."""
    experts = get_checkpoint_conversion_mapping("glm4_moe")
    parts = [f"{name}_proj.weight" for name in "qkv"]
    renamings = [WeightRenaming(theirs, ours) for theirs, ours in _RENAMED.items()]
    return [*experts, *renamings, WeightConverter("query_key_value.weight", parts, [_SplitHeads(dim=0)])]


class LLaDA2MoeModel(BlockCausalMixin, Glm4MoeModel):
    """Glm4Moe blocks with block-causal attention; returns hidden states of shape `(batch, length, hidden_size)`."""

    config: LLaDA2MoeConfig


class LLaDA2MoeModelLM(DemaskGenerationMixin, WholeCheckpointMixin, Glm4MoeForCausalLM):
    """LLaDA2 with its output embedding: the logits at a position predict the token at that position.

    `generate` decodes block by block, see [`DemaskGenerationMixin`]. Labels passed to `forward` are at their own
    positions, -100 where nothing is to be predicted. The class has the name that the Hub's configs use, for LLaDA2.0
    and LLaDA2.1.

    Args:
        config ([`LLaDA2MoeConfig`]):
            The model's configuration.
    """

    config: LLaDA2MoeConfig
    config_class = LLaDA2MoeConfig
    # Glm4Moe's checkpoints have layers that the model leaves out.
    _keys_to_ignore_on_load_unexpected: list[str] = []

    def __init__(self, config: LLaDA2MoeConfig):
        # Skips the constructor of Glm4MoeForCausalLM, which would build the causal model first.
        super(Glm4MoeForCausalLM, self).__init__(config)
        self.model = LLaDA2MoeModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.loss_type = "ForMaskedLM"
        self.post_init()


register_checkpoint_conversion_mapping("llada2_moe", _conversions(), overwrite=True)

__all__ = ["LLaDA2MoeModel", "LLaDA2MoeModelLM"]
