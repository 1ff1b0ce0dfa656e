"""A native model takes its checkpoint, and an adapter, whole or not at all."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from .lookalikes import declare_class


# The mixin stands before a class of transformers; type checkers take it for one.
if TYPE_CHECKING:
    _Model = PreTrainedModel
else:
    _Model = object

_NUM_NAMED = 3


class WholeCheckpointMixin(_Model):
    """Goes before the class of a native model: what is loaded must have all of its tensors, and no others.

    Without it, transformers puts random numbers where a tensor is missing, and PEFT drops what it has no place for;
    both only warn.
    """

    #: What may be added to the message about an adapter that does not fit.
    _adapter_hint = ""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        declare_class(getattr(cls.config_class, "model_type", ""), cls.__name__)

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        """Refuse a checkpoint that is not this model's; called by `from_pretrained` when all tensors are read."""
        super()._adjust_missing_and_unexpected_keys(loading_info)
        problems = []
        if loading_info.missing_keys:
            problems.append(f"lacks {_listed(loading_info.missing_keys)}")
        # A quantised checkpoint has scales and more beside its tensors, which its quantiser knows.
        if loading_info.unexpected_keys and getattr(self.config, "quantization_config", None) is None:
            problems.append(f"has {_listed(loading_info.unexpected_keys)} without a place in this class")
        if problems:
            raise ValueError(
                f"`pretrained_model_name_or_path` must hold the tensors of a {type(self).__name__} and no others, got "
                f"{self.name_or_path!r}, which {' and '.join(problems)}."
            )

    def load_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """Load a PEFT adapter, see [`~transformers.integrations.PeftAdapterMixin.load_adapter`].

        Raises:
            ValueError: if some of the adapter's tensors have no place in the model, or some of its places no tensor.
        """
        info = super().load_adapter(*args, **kwargs)
        self._check_adapter(info.unexpected_keys, info.missing_keys)
        return info

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any) -> None:
        """Check an adapter that `PeftModel` loads around this model; called by `load_state_dict`."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        configs = getattr(self, "peft_config", None)
        if not configs:
            return
        from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

        marks = tuple({PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, "lora_") for config in configs.values()})
        given = {name.removeprefix(prefix) for name in state_dict if any(f".{mark}" in name for mark in marks)}
        if not given:
            return
        lost = given - self.state_dict().keys()
        # Other methods keep shared tensors, and some that they compute, out of the file.
        adapters = [name for name, config in configs.items() if config.peft_type == "LORA"]
        adapters = [name for name in adapters if any(f".{name}." in f"{key}." for key in given)]
        own = [name for name, _ in self.named_parameters() if ".lora_" in name]
        missing = {key for key in own for name in adapters if f".{name}." in f"{key}."} - given
        self._check_adapter(lost, missing)

    def _check_adapter(self, lost: Iterable[str], missing: Iterable[str]) -> None:
        """Refuse an adapter with tensors that did not arrive, or that has none for some of its places."""
        problems = []
        if lost := set(lost):
            problems.append(f"has {_listed(lost)} without a place in the model{self._adapter_hint}")
        if missing := set(missing):
            problems.append(f"lacks {_listed(missing)}")
        if problems:
            raise ValueError(
                f"An adapter must arrive whole in a {type(self).__name__}, got one that {' and '.join(problems)}."
            )


def _listed(names: Iterable[str]) -> str:
    """Return how many tensors these are, with the names of the first ones."""
    ordered = sorted(names)
    rest = ", ..." if len(ordered) > _NUM_NAMED else ""
    noun = "tensor" if len(ordered) == 1 else "tensors"
    return f"{len(ordered)} {noun} ({', '.join(ordered[:_NUM_NAMED])}{rest})"


__all__ = ["WholeCheckpointMixin"]
