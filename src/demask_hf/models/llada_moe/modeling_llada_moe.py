"""The LLaDA-MoE model, written as its difference from Qwen3Moe: full attention, and other rules of the router."""

from typing import Any

import torch
from transformers import Qwen3MoeForCausalLM, Qwen3MoeModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeAttention, Glm4MoeRotaryEmbedding
from transformers.models.qwen3_moe.modeling_qwen3_moe import (
    Qwen3MoeDecoderLayer,
    Qwen3MoeMLP,
    Qwen3MoeRMSNorm,
    Qwen3MoeSparseMoeBlock,
    Qwen3MoeTopKRouter,
)

from ...generation.mixin import DemaskGenerationMixin
from ..bidirectional import BidirectionalMixin
from ..checkpoint import WholeCheckpointMixin
from .configuration_llada_moe import LLaDAMoEConfig


class LLaDAMoERouter(Qwen3MoeTopKRouter):
    """Choose experts as Qwen3Moe does; a bias of an expert, if there is one, is part of its weight, too."""

    def __init__(self, config: LLaDAMoEConfig):
        super().__init__(config)
        bias = torch.zeros(config.num_experts) if config.moe_router_enable_expert_bias else None
        self.register_buffer("expert_bias", bias)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, weights, experts = super().forward(hidden_states)
        if self.expert_bias is not None:
            probabilities = logits.softmax(dim=-1, dtype=torch.float32) + self.expert_bias
            weights, experts = probabilities.topk(self.top_k, dim=-1)
        return logits, weights.to(logits.dtype), experts


class LLaDAMoEBlock(Qwen3MoeSparseMoeBlock):
    """The experts of a layer; one that sees every token, if there is one, is added without a gate."""

    def __init__(self, config: LLaDAMoEConfig):
        super().__init__(config)
        self.gate = LLaDAMoERouter(config)
        width = config.shared_expert_intermediate_size
        self.shared_expert = None if width is None else Qwen3MoeMLP(config, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output = super().forward(hidden_states)
        return output if self.shared_expert is None else output + self.shared_expert(hidden_states)


class LLaDAMoEDecoderLayer(Qwen3MoeDecoderLayer):
    """A layer of Qwen3Moe with that block, and the attention of Glm4Moe, which may rotate some dimensions only."""

    self_attn: Any
    mlp: Any

    def __init__(self, config: Any, layer_idx: int):
        # Skips the constructor of Qwen3Moe's layer, which would build its own experts first.
        super(Qwen3MoeDecoderLayer, self).__init__()
        self.self_attn = Glm4MoeAttention(config, layer_idx)
        self.mlp = Qwen3MoeMLP(config) if layer_idx in config.mlp_only_layers else LLaDAMoEBlock(config)
        self.input_layernorm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hidden_size = config.hidden_size


class _StackedExperts:
    """The experts run through the kernels of transformers, which `experts_implementation` chooses."""

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # Transformers would look for a decorator in this file, and it stands in the one of Qwen3Moe's experts.
        return True


class _CausalModel(_StackedExperts, Qwen3MoeModel):
    """Qwen3Moe's body with the layers of LLaDA-MoE."""

    _no_split_modules = ["LLaDAMoEDecoderLayer"]
    _can_record_outputs = {**Qwen3MoeModel._can_record_outputs, "attentions": Glm4MoeAttention}
    rotary_emb: Any

    def __init__(self, config: Any):
        # Skips the constructor of Qwen3MoeModel, which would build its own layers first.
        super(Qwen3MoeModel, self).__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        layers = [LLaDAMoEDecoderLayer(config, number) for number in range(config.num_hidden_layers)]
        self.layers = torch.nn.ModuleList(layers)
        self.norm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = Glm4MoeRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()


class LLaDAMoEModel(BidirectionalMixin, _CausalModel):
    """Layers of LLaDA-MoE without the causal mask; returns states of shape `(batch, length, hidden_size)`."""

    config: LLaDAMoEConfig


class LLaDAMoEModelLM(DemaskGenerationMixin, WholeCheckpointMixin, _StackedExperts, Qwen3MoeForCausalLM):
    """LLaDA-MoE with its output embedding: the logits at a position predict the token at that position.

    `generate` decodes by unmasking, see [`DemaskGenerationMixin`]. Labels passed to `forward` are at their own
    positions, -100 where nothing is to be predicted. The class has the name that published configs use.

    Args:
        config ([`LLaDAMoEConfig`]):
            The model's configuration.
    """

    config: LLaDAMoEConfig
    config_class = LLaDAMoEConfig
    _no_split_modules = LLaDAMoEModel._no_split_modules

    def __init__(self, config: LLaDAMoEConfig):
        # Skips the constructor of Qwen3MoeForCausalLM, which would build the causal model first.
        super(Qwen3MoeForCausalLM, self).__init__(config)
        self.model = LLaDAMoEModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.router_aux_loss_coef = config.router_aux_loss_coef
        self.num_experts = config.num_experts
        self.num_experts_per_tok = config.num_experts_per_tok
        self.loss_type = "ForMaskedLM"
        self.post_init()


def _conversions() -> list[Any]:
    """Return how published tensors become ours: experts are stacked, and two parts lie deeper here."""
    moved = {"shared_expert.": "mlp.shared_expert.", "mlp.expert_bias": "mlp.gate.expert_bias"}
    renamed = [
        WeightRenaming(rf"^model.layers.(\d+).{theirs}", rf"^model.layers.(\d+).{ours}")
        for theirs, ours in moved.items()
    ]
    return [*renamed, *(get_checkpoint_conversion_mapping("qwen2_moe") or ())]


register_checkpoint_conversion_mapping("lladamoe", _conversions(), overwrite=True)

__all__ = ["LLaDAMoEModel", "LLaDAMoEModelLM"]
