"""Configuration of the LLaDA2.0 and LLaDA2.1 models."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Glm4MoeConfig

from ...validation import check_count
from ..fields import check_sizes, in_a_sentence
from ..lookalikes import check_lookalike


# Options of the public code with the values that the model has; others ask for another architecture.
_FIXED = {
    "embedding_dropout": 0.0,
    "moe_router_enable_expert_bias": True,
    "norm_head": False,
    "norm_softmax": False,
    "output_dropout": 0.0,
    "router_dtype": "fp32",
    "score_function": "sigmoid",
    "use_bias": False,
    "use_sliding_window": False,
}
# Fields that the parent class reads, and one that follows from others.
_READ = ("partial_rotary_factor", "rotary_dim")


@in_a_sentence
@strict
class LLaDA2MoeConfig(Glm4MoeConfig):
    """Describe a LLaDA2 backbone; the defaults are those of LLaDA2.1-mini, and of LLaDA2.0-mini as far as known.

    The fields have the names of the Hub's configs, under which they are saved again; those of
    [`~transformers.Glm4MoeConfig`] for the same are accepted when they are read, as `n_routed_experts`.

    Args:
        num_experts (`int`, *optional*, defaults to 256):
            Experts of a layer.
        num_shared_experts (`int`, *optional*, defaults to 1):
            Experts that see every token.
        use_qkv_bias (`bool`, *optional*, defaults to `False`):
            Biases in the projections of queries, keys and values.
        mask_token_id (`int`, *optional*, defaults to 156895):
            Id of the mask token, which published configs do not have: it is a default of the public `generate`.
        block_size (`int`, *optional*, defaults to 32):
            Tokens in a block, counted from the first one; likewise.
        kwargs:
            Fields of [`~transformers.Glm4MoeConfig`].

    Raises:
        ValueError: if an option asks for an architecture that no LLaDA2 checkpoint has, or a size is impossible.

    Example:

    ```python
    >>> from demask_hf.models.llada2.configuration_llada2 import LLaDA2MoeConfig

    >>> config = LLaDA2MoeConfig(num_experts=8, num_experts_per_tok=2, n_group=4, topk_group=2)
    >>> config.n_routed_experts, config.block_size, "n_routed_experts" in config.to_dict()
    (8, 32, False)

    ```
    """

    model_type = "llada2_moe"
    attribute_map = {
        "n_routed_experts": "num_experts",
        "num_local_experts": "num_experts",
        "n_shared_experts": "num_shared_experts",
        "attention_bias": "use_qkv_bias",
        "num_mtp_layers": "num_nextn_predict_layers",
    }

    vocab_size: int = 157184
    hidden_size: int = 2048
    intermediate_size: int = 5120
    num_hidden_layers: int = 20
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 128
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    default_theta = 600000.0
    num_experts: int = 256
    num_shared_experts: int = 1
    moe_intermediate_size: int = 512
    routed_scaling_factor: float = 2.5
    n_group: int = 8
    topk_group: int = 4
    use_qkv_bias: bool = False
    use_qk_norm: bool = True
    num_mtp_layers: int = 0
    pad_token_id: int | None = 156892
    eos_token_id: int | list[int] | None = 156892
    mask_token_id: int | None = 156895
    block_size: int = 32
    is_causal: bool = False

    def __post_init__(self, **kwargs: Any):
        for name, expected in _FIXED.items():
            value = kwargs.get(name, expected)
            if value != expected:
                raise ValueError(f"`{name}` must be {expected!r} in the config of a LLaDA2 checkpoint, got {value!r}.")
        known = (*_FIXED, *_READ)
        unknown = {name: value for name, value in kwargs.items() if name not in known}
        check_lookalike(type(self).model_type, self.architectures, unknown)
        # The published code does not run on transformers 5; a saved copy must not refer older versions to it.
        kwargs.pop("auto_map", None)
        check_sizes(self)
        check_count("block_size", self.block_size)
        super().__post_init__(**kwargs)


__all__ = ["LLaDA2MoeConfig"]
