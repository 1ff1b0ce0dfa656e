"""PEFT adapters that were trained on LLaDA's own code, whose modules have other names than ours."""

import re
from typing import Any

from peft import PeftConfig

from ...head.weights import ADAPTER_CONFIG, find, read_object
from .names import LAYER_TENSOR_NAMES


# Modules outside of the layers, beside `ff_out`, which is the name of a layer's last module and of the output layer.
_OTHER_NAMES = {"wte": ["embed_tokens"], "ln_f": ["norm"]}
_NAMES = {theirs: [ours.split(".")[-1]] for theirs, ours in LAYER_TENSOR_NAMES.items()} | _OTHER_NAMES
_NAMES["ff_out"].append("lm_head")
# Fields of PEFT configs with names of modules, and those whose keys are names or patterns of modules.
_LISTS = ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules")
_PATTERNS = ("rank_pattern", "alpha_pattern")


def adapter_config(name_or_path: str, **kwargs: Any) -> PeftConfig:
    """Return an adapter's config with the modules of LLaDA's own code under the names that they have here.

    The names of tensors are mapped when the adapter is loaded; the targets must be mapped before, so that the adapter
    has its places. `model.load_adapter` does so by itself.

    Args:
        name_or_path (`str`):
            Folder or Hub repository of the adapter.
        kwargs:
            Arguments of `PeftConfig.from_pretrained`, such as `revision`, `token` or `subfolder`.

    Returns:
        `PeftConfig`: the config, to be passed to `PeftModel.from_pretrained(model, name_or_path, config=...)`; that of
        an adapter trained on our model is unchanged.

    Raises:
        ValueError: if the file is damaged, or the targets are a pattern, in which names cannot be mapped.
    """
    file = find(name_or_path, ADAPTER_CONFIG, kwargs)
    if file is not None:
        read_object("name_or_path", file)
    config = PeftConfig.from_pretrained(name_or_path, **kwargs)
    for field in _LISTS:
        value = getattr(config, field, None)
        if isinstance(value, str):
            if value != "all-linear" and any(re.search(rf"\b{name}\b|blocks", value) for name in _foreign_names()):
                raise ValueError(
                    f"`{field}` must be a list of names in an adapter trained on LLaDA's own code, got the pattern "
                    f"{value!r}."
                )
        elif value:
            setattr(config, field, type(value)(ours for theirs in value for ours in _renamed(theirs)))
    for field in _PATTERNS:
        value = getattr(config, field, None)
        if value:
            setattr(config, field, {ours: number for theirs, number in value.items() for ours in _renamed(theirs)})
    if getattr(config, "layers_pattern", None) in ("blocks", ["blocks"]):
        config.layers_pattern = "layers"  # type: ignore[attr-defined]
    return config


def _foreign_names() -> list[str]:
    """Return the names of modules that mean nothing in our model."""
    return [name for name, ours in _NAMES.items() if ours != [name]]


def _renamed(name: str) -> list[str]:
    """Return our names of a module, given by the last part of its name or by more of it."""
    name = name.replace("\\.", ".")
    start, _, last = name.rpartition(".")
    layer = re.search(r"(?:^|\.)blocks\.(.+)$", start)
    if layer is not None and last in LAYER_TENSOR_NAMES:
        # In our layers a module lies one step deeper.
        return [f"layers.{layer[1]}.{LAYER_TENSOR_NAMES[last]}"]
    if last == "ff_out" and start:
        # With its path, and outside of the layers, it is the output layer.
        return ["lm_head"]
    return _NAMES.get(last, [name])


__all__ = ["adapter_config"]
