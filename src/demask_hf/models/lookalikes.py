"""Refuse a config that claims a native model's `model_type` and describes another model."""

import re
from typing import Any


# The class that a `model_type` stands for, and all names in `architectures` that it reads; subclasses declare theirs.
_NATIVE = {
    "Dream": "DreamModel",
    "llada": "LLaDAModelLM",
    "sdar": "SDARForCausalLM",
    "llada2_moe": "LLaDA2MoeModelLM",
    "a2d-qwen3": "A2DQwen3LMHeadModel",
    "a2d-qwen2": "A2DQwen2LMHeadModel",
    "a2d-llama": "A2DLlamaLMHeadModel",
    "lladamoe": "LLaDAMoEModelLM",
}
_NAMES = {native: {name, name.replace("LMHead", "").replace("ModelLM", "Model")} for native, name in _NATIVE.items()}
_NAMES["Dream"].add("DreamBaseModel")
# Fields of parts that neither Llama nor Qwen2 has: experts, norms and limits in the attention, a rotation of some
# dimensions only, scales, and other inputs than text.
_FOREIGN = re.compile(
    r"expert|(^|_)moe(_|$)|^router_(?!aux_loss)|qk_?(layer_?)?norm|clip_qkv|partial_rotary|rotary_pct|mrope|softcap"
    r"|(residual|embedding|attention|logits?)_(multiplier|scale|scaling)$|^(vision|mm|image|audio)_"
)


def declare_class(model_type: str, name: str) -> None:
    """Say that the class of this name reads checkpoints of a native `model_type`."""
    _NAMES.get(model_type, set()).add(name)


def check_lookalike(model_type: str, architectures: list[str] | None, unknown: dict[str, Any]) -> None:
    """Refuse the config of a model that only shares the `model_type`; runs before any weights are fetched.

    Args:
        model_type (`str`):
            The native model's type; others are not checked.
        architectures (`list[str]`, *optional*):
            Classes that the config names; `None` or nothing is taken for the native class.
        unknown (`dict[str, Any]`):
            Fields that the native config does not have.

    Raises:
        ValueError: if another class is named, or a field asks for a part that the native class does not have.
    """
    native = _NATIVE.get(model_type)
    if native is None:
        return
    found = [str(name).removeprefix("FSDP") for name in architectures or ()]
    if found and not _NAMES[model_type].intersection(found):
        raise ValueError(
            f"`architectures` must be {[native]} in a config with `model_type` {model_type!r}, got {architectures}: "
            f"{native} would compute something else from these weights."
        )
    for name, value in unknown.items():
        if _FOREIGN.search(name) and not _is_neutral(value):
            raise ValueError(
                f"`{name}` must not be set in the config of a {native}, got {value!r}: this class has no such part "
                f"and would compute something else from these weights."
            )


def _is_neutral(value: Any) -> bool:
    """Return whether a field says that a part is absent, or a factor that it changes nothing."""
    return value is None or value is False or value in ("", [], {}) or (value is not True and value in (0, 1))
