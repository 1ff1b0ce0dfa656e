"""Configuration of the LLaDA-MoE masked diffusion language models."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Qwen3MoeConfig

from ..fields import check_sizes, in_a_sentence
from ..lookalikes import check_lookalike


# The classes that configs name.
_CLASSES = ("LLaDAMoEModelLM", "LLaDAMoEModel")
# Names of a Qwen3Moe config's fields in published configs.
_HUB_NAMES = {"expert_intermediate_size": "moe_intermediate_size", "dense_intermediate_size": "intermediate_size"}
# What the public code reads and does not use.
_UNUSED = ("moe_router_score_function", "routed_scaling_factor", "router_num_group", "router_topk_group")
# Options of the public code that are not known to be published, and of Qwen3Moe, with their required values.
_FIXED = {"attention_bias": False, "clip_qkv": None, "decoder_sparse_step": 1, "use_sliding_window": False}
# The id in the model card's script; published configs name none.
_MASK_TOKEN = 156895


def is_llada_moe(fields: dict[str, Any]) -> bool:
    """Return whether a config with the `model_type` "llada" is that of a LLaDA-MoE."""
    named = fields.get("architectures")
    if named:
        return isinstance(named, list) and any(str(name).removeprefix("FSDP") in _CLASSES for name in named)
    return fields.get("num_experts") not in (None, False, 0, 1)


@in_a_sentence
@strict
class LLaDAMoEConfig(Qwen3MoeConfig):
    """Describe a LLaDA-MoE backbone; the defaults are those of LLaDA-MoE-7B-A1B as far as they are known.

    A LLaDA-MoE is a Qwen3Moe model without a causal mask. All arguments of [`~transformers.Qwen3MoeConfig`] apply; the
    names in published configs (`expert_intermediate_size`, `dense_intermediate_size`, `moe_layer_freq`) are accepted,
    too, and saved under Qwen3Moe's names. As in the public code, the weights of a token's experts are never scaled to
    sum to 1, whatever `norm_topk_prob` says, and scales and groups of the router have no effect.

    Args:
        mask_token_id (`int`, *optional*):
            Id of the token at positions that are not unmasked yet; by default 156895 if the vocabulary has it.
        qk_layernorm (`bool`, *optional*, defaults to `True`):
            Whether each head's queries and keys are normalised.
        moe_router_enable_expert_bias (`bool`, *optional*, defaults to `False`):
            Whether each expert has a bias, added to its probability for the choice and for the weight.
        shared_expert_intermediate_size (`int`, *optional*):
            Width of an expert that sees every token; `None` for no such expert.

    Raises:
        ValueError: if an option of the public code asks for something that no LLaDA-MoE is known to have, the config
            describes another model, or a field has another type or an impossible size.

    Example:

    ```python
    >>> from demask_hf import LLaDAMoEConfig

    >>> config = LLaDAMoEConfig(num_hidden_layers=2, expert_intermediate_size=16, moe_layer_freq=[0, 1])
    >>> config.moe_intermediate_size, config.mlp_only_layers, config.is_causal
    (16, [0], False)

    ```
    """

    model_type = "lladamoe"
    # Names by which code of transformers asks for these fields.
    attribute_map = {"num_local_experts": "num_experts", "use_qk_norm": "qk_layernorm"}

    vocab_size: int = 157184
    hidden_size: int = 2048
    num_hidden_layers: int = 16
    num_attention_heads: int = 16
    num_key_value_heads: int = 16
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5
    default_theta = 50000.0
    moe_intermediate_size: int = 1024
    num_experts_per_tok: int = 8
    num_experts: int = 64
    norm_topk_prob: bool | None = False  # type: ignore[assignment]
    qk_layernorm: bool = True
    moe_router_enable_expert_bias: bool = False
    shared_expert_intermediate_size: int | None = None
    pad_token_id: int | None = 156892
    eos_token_id: int | list[int] | None = 156892
    mask_token_id: int | None = None
    is_causal: bool = False

    def __post_init__(self, **kwargs: Any):
        # The published code does not run on transformers 5; a saved copy must not refer older versions to it.
        for name in ("auto_map", "model_type", *_UNUSED):
            kwargs.pop(name, None)
        for name, expected in _FIXED.items():
            value = kwargs.pop(name, getattr(self, name, expected))
            if value != expected:
                raise ValueError(f"`{name}` must be {expected!r} in the config of a LLaDA-MoE, got {value!r}.")
        for theirs, ours in _HUB_NAMES.items():
            value = kwargs.pop(theirs, None)
            if value is not None:
                setattr(self, ours, value)
        layers = kwargs.pop("moe_layer_freq", None)
        if layers is not None:
            if not isinstance(layers, list) or len(layers) != self.num_hidden_layers:
                raise ValueError(
                    f"`moe_layer_freq` must be a list with 1 or 0 for each of the {self.num_hidden_layers} layers, "
                    f"got {layers!r}."
                )
            self.mlp_only_layers = [number for number, has_experts in enumerate(layers) if not has_experts]
        known = ("partial_rotary_factor", *self.attribute_map)
        unknown = {name: value for name, value in kwargs.items() if name not in known}
        check_lookalike(self.model_type, self.architectures, unknown)
        self.norm_topk_prob = False
        if self.mask_token_id is None and self.vocab_size > _MASK_TOKEN:
            self.mask_token_id = _MASK_TOKEN
        check_sizes(self)
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"`num_experts_per_tok` must be in [1, {self.num_experts}], got {self.num_experts_per_tok}."
            )
        super().__post_init__(**kwargs)


__all__ = ["LLaDAMoEConfig", "is_llada_moe"]
