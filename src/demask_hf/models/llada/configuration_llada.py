"""Configuration of the LLaDA masked diffusion language models."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

from ..fields import check_sizes, in_a_sentence
from ..llada_moe.configuration_llada_moe import LLaDAMoEConfig, is_llada_moe
from ..lookalikes import check_lookalike


# Names of a Llama config's fields in the configs of the Hub's checkpoints.
_HUB_NAMES = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "mlp_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "weight_tying": "tie_word_embeddings",
    "activation_type": "hidden_act",
    "init_std": "initializer_range",
    "embedding_size": "vocab_size",
}
# Options of LLaDA's public code that its checkpoints do not use, with their required values.
_FIXED = {
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "rope": True,
    "scale_logits": False,
}


@in_a_sentence
@strict
class LLaDAConfig(LlamaConfig):
    """Describe a LLaDA backbone; the defaults are those of LLaDA-8B.

    A LLaDA model is a Llama model without a causal mask. All arguments of [`~transformers.LlamaConfig`] apply; the
    names in the Hub's configs (`d_model`, `n_layers`, `n_heads`, `n_kv_heads`, `mlp_hidden_size`,
    `max_sequence_length`, `weight_tying`, `embedding_size`, ...) are accepted, too, and saved under Llama's names.

    Args:
        mask_token_id (`int`, *optional*, defaults to 126336):
            Id of the token at positions that are not unmasked yet.

    Raises:
        ValueError: if an option of the Hub's configs asks for an architecture that no LLaDA checkpoint has, the config
            describes another model under the same `model_type`, such as LLaDA-MoE, or a field has another type or an
            impossible size.

    Example:

    ```python
    >>> from demask_hf import LLaDAConfig

    >>> config = LLaDAConfig(d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, mlp_hidden_size=48)
    >>> config.hidden_size, config.num_hidden_layers, config.is_causal
    (32, 2, False)

    ```
    """

    model_type = "llada"

    vocab_size: int = 126464
    hidden_size: int = 4096
    intermediate_size: int = 12288
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    default_theta = 500000.0
    pad_token_id: int | None = 126081
    bos_token_id: int | None = 126080
    eos_token_id: int | list[int] | None = 126081
    mask_token_id: int | None = 126336
    is_causal: bool = False

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return the config in a dictionary, which is a [`LLaDAMoEConfig`] for LLaDA-MoE, of the same `model_type`."""
        if cls is LLaDAConfig and is_llada_moe(config_dict):
            return LLaDAMoEConfig.from_dict(config_dict, **kwargs)
        return super().from_dict(config_dict, **kwargs)

    def __post_init__(self, **kwargs: Any):
        check_lookalike(type(self).model_type, self.architectures, kwargs)
        # The Hub's code does not run on transformers 5; a saved copy must not refer older versions to it.
        kwargs.pop("auto_map", None)
        for name, expected in _FIXED.items():
            value = kwargs.pop(name, expected)
            if value != expected:
                raise ValueError(f"`{name}` must be {expected!r} in the config of a LLaDA checkpoint, got {value!r}.")
        multi_query = kwargs.pop("multi_query_attention", None)
        if multi_query and kwargs.get("n_kv_heads") is None:
            self.num_key_value_heads = 1
        ratio = kwargs.pop("mlp_ratio", None)
        for theirs, ours in _HUB_NAMES.items():
            value = kwargs.pop(theirs, None)
            if value is not None:
                setattr(self, ours, value)
            elif theirs == "mlp_hidden_size" and ratio is not None:
                self.intermediate_size = ratio * self.hidden_size
        check_sizes(self)
        super().__post_init__(**kwargs)


__all__ = ["LLaDAConfig"]
