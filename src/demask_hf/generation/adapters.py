"""PEFT adapters around or inside a model: each takes part in `generate`, or is refused in one sentence."""

from typing import Any

import torch


# Methods that compute more than the adapted model's own forward: two passes, or states that carry more than a tensor.
_REFUSED = {"SHADOW", "XLORA"}
_BY_ROW = (
    "`adapter_names` must not be given to `generate`, got {names!r}: rows leave the batch when they are finished; "
    "call `set_adapter` and decode the rows of each adapter by themselves."
)
_VIRTUAL = (
    "`generate` must be called with adapters inside of the model, got {name}: decoding by unmasking leaves virtual "
    "tokens out."
)


def check_adapters(model: torch.nn.Module, adapter_names: Any = None) -> None:
    """Refuse adapters that decoding by unmasking would leave out or break on.

    Args:
        model (`torch.nn.Module`):
            The model inside of PEFT.
        adapter_names (`list[str]`, *optional*):
            An adapter for each row, as PEFT calls it.

    Raises:
        ValueError: if there is one adapter for each row, or a method adds virtual tokens, begins to act at some token,
            or needs more than one forward.
    """
    names = adapter_names if adapter_names is not None else _names_by_row(model)
    if names is not None:
        raise ValueError(_BY_ROW.format(names=names))
    # While it generates, a wrapper for causal language models puts a method of its own into the model.
    wrapper = getattr(vars(model).get("prepare_inputs_for_generation"), "__self__", None)
    active = getattr(wrapper, "active_peft_config", None)
    if active is not None:
        check_method(active)
    for config in _configs(model):
        check_method(config)


def check_method(config: Any) -> None:
    """Refuse a PEFT method that cannot take part, by its config, see [`check_adapters`]."""
    name = getattr(config.peft_type, "value", config.peft_type)
    if config.is_prompt_learning:
        raise ValueError(_VIRTUAL.format(name=name))
    if name in _REFUSED:
        raise ValueError(f"`generate` must be called with adapters that run in one forward, got {name}.")
    if getattr(config, "alora_invocation_tokens", None):
        raise ValueError(
            f"`generate` must be called with adapters for whole texts, got {name} with `alora_invocation_tokens`, "
            "which begins to act at these tokens."
        )


def check_around(model: torch.nn.Module, adapter_names: Any = None) -> None:
    """Refuse what a wrapper of PEFT around the model would do without changing the model.

    Forwards of methods inside of the model come here, too, those in training included.

    Raises:
        ValueError: if no adapter is inside of the model, so that the wrapper adds virtual tokens, or there is one
            adapter for each row.
    """
    if not _configs(model):
        raise ValueError(_VIRTUAL.format(name="a method of prompt learning"))
    if adapter_names is not None:
        raise ValueError(_BY_ROW.format(names=adapter_names))


def _configs(model: torch.nn.Module) -> list[Any]:
    found = getattr(model, "peft_config", None)
    return list(found.values()) if isinstance(found, dict) else []


def _names_by_row(model: torch.nn.Module) -> Any:
    """Return the adapters of the rows that PEFT is about to hand to each adapted module, and take them away.

    PEFT itself leaves them behind after an error, and the next call would get them.
    """
    found = None
    for module in model.modules() if _configs(model) else ():
        for number, hook in list(module._forward_pre_hooks.items()):
            names = getattr(hook, "keywords", {}).get("adapter_names")
            if names is not None:
                found = names
                del module._forward_pre_hooks[number]
                module._forward_pre_hooks_with_kwargs.pop(number, None)
    return found
