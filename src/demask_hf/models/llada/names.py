"""Names of tensors and modules in LLaDA's own code, and in our model."""

# Tensor names of the Hub's checkpoints, and of this model. Checkpoints are saved under the Hub's names again, and load
# under either. The tensors of adapters are found by the names of their modules.
TENSOR_NAMES = {
    "model.transformer.wte.weight": "model.embed_tokens.weight",
    "model.transformer.ln_f.weight": "model.norm.weight",
    "model.transformer.ff_out.weight": "lm_head.weight",
}
LAYER_TENSOR_NAMES = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}

__all__ = ["LAYER_TENSOR_NAMES", "TENSOR_NAMES"]
