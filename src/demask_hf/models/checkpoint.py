"""A native model takes its checkpoint, and an adapter, whole or not at all."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from ..head.weights import (
    ADAPTER_CONFIG,
    BUILDING,
    Header,
    adapter_files,
    check_floats,
    check_name,
    find,
    read_header,
    read_object,
    stored_files,
)
from .lookalikes import declare_class


# The mixin stands before a class of transformers; type checkers take it for one.
if TYPE_CHECKING:
    _Model = PreTrainedModel
else:
    _Model = object

_NUM_NAMED = 3
_ARGUMENT, _BASE = "pretrained_model_name_or_path", "base_model_name_or_path"
# Where the tensors show a size that the config says, too: their names here and on the Hub, and a dimension.
_SIZES = {
    "vocab_size": (r"(^|\.)(embed_tokens|wte|word_embeddings)\.weight$", 0),
    "hidden_size": (r"(^|\.)(embed_tokens|wte|word_embeddings)\.weight$", 1),
    # Not those of experts.
    "intermediate_size": (r"(\.mlp\.gate_proj|\.ff_proj)\.weight$", 0),
    "moe_intermediate_size": (r"\.experts\.\d+\.gate_proj\.weight$", 0),
    "num_experts": (r"\.mlp\.gate\.weight$", 0),
    "shared_expert_intermediate_size": (r"\.shared_expert\.gate_proj\.weight$", 0),
}
_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks)\.(\d+)\.")


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

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any = None, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Load the model, from safetensors only, see [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: if a file is damaged or of another format, or the tensors are not those of the model that the
                config describes.
        """
        if pretrained_model_name_or_path is not None and not any(
            kwargs.get(name) for name in ("gguf_file", "state_dict")
        ):
            if kwargs.get("use_safetensors") is False:
                raise ValueError(f"`use_safetensors` must be True for a {cls.__name__}, got False.")
            _check_files(cls, pretrained_model_name_or_path, kwargs)
            kwargs |= {"use_safetensors": True, "weights_only": True}
        try:
            with BUILDING:
                return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (RuntimeError, SafetensorError) as error:
            problem = "whole files, got {}, one of which is damaged"
            if not isinstance(error, SafetensorError):
                if "ignore_mismatched_sizes" not in str(error):
                    raise
                problem = "tensors of the shapes in its config.json, got {} with other shapes"
            name = repr(str(pretrained_model_name_or_path))
            raise ValueError(f"`{_ARGUMENT}` must hold {problem.format(name)}.") from error

    @staticmethod
    def _load_pretrained_model(model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any) -> Any:
        """Refuse files of other formats; called for the model and for its adapters."""
        for file in checkpoint_files or ():
            if not str(file).endswith(".gguf"):
                check_name(_ARGUMENT, Path(file).name, Path(file))
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)

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
            ValueError: if a file is damaged or the weights are not in a safetensors file, if some of the adapter's
                tensors have no place in the model, or some of its places no tensor.
        """
        location = args[0] if args else kwargs.get("peft_model_id")
        if location is not None and kwargs.get("adapter_state_dict") is None:
            download = getattr(kwargs.get("load_config"), "download_kwargs", None) or {}
            given = (download, kwargs.get("download_kwargs"), kwargs.get("adapter_kwargs"), kwargs)
            adapter_files("peft_model_id", location, {name: one[name] for one in given if one for name in one})
        try:
            info = super().load_adapter(*args, **kwargs)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if location is None or str(error).startswith("`"):
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".:")
            raise ValueError(
                f"`peft_model_id` must be an adapter that fits a {type(self).__name__}, got {str(location)!r} "
                f"({reason})."
            ) from error
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


def _check_files(model_class: Any, name_or_path: Any, given: Mapping[str, Any]) -> None:
    """Refuse a checkpoint by its config and the headers of its files, before a model is built."""
    if find(name_or_path, "config.json", given) is None and find(name_or_path, ADAPTER_CONFIG, given) is not None:
        # The model is the one that the adapter was made for.
        adapter, name_or_path = name_or_path, adapter_files(_ARGUMENT, name_or_path, given)[0].get(_BASE)
        if not isinstance(name_or_path, str) or not name_or_path:
            raise ValueError(
                f"`{_ARGUMENT}` must be a model or an adapter that names one, got {str(adapter)!r} with `{_BASE}` "
                f"{name_or_path!r}."
            )
        given = {name: value for name, value in given.items() if name not in ("revision", "subfolder", "variant")}
    config, file = given.get("config"), find(name_or_path, "config.json", given)
    found = {} if file is None else read_object(_ARGUMENT, file)
    if not isinstance(config, PreTrainedConfig):
        config = model_class.config_class.from_dict(found)
    if not isinstance(config, model_class.config_class):
        raise ValueError(
            f"`{_ARGUMENT}` must hold a {model_class.__name__}, got {str(name_or_path)!r} with a "
            f"{type(config).__name__}."
        )
    header: Header = {}
    for weights in stored_files(_ARGUMENT, name_or_path, given, found):
        header |= read_header(_ARGUMENT, weights, name_or_path)
    if getattr(config, "quantization_config", None) is not None or given.get("ignore_mismatched_sizes"):
        return
    check_floats(_ARGUMENT, name_or_path, header)
    _check_sizes(config, header, name_or_path)
    if getattr(config, "hidden_act", None) not in (None, *ACT2FN):
        raise ValueError(f"`hidden_act` must be an activation of transformers, got {config.hidden_act!r}.")


def _check_sizes(config: PreTrainedConfig, header: Header, name_or_path: Any) -> None:
    """Refuse fields of a config that contradict the tensors."""
    said: dict[str, int] = {}
    layers = {int(match[1]) for match in map(_LAYER.search, header) if match}
    if layers:
        said["num_hidden_layers"] = max(layers) + 1
    for name, (_, shape) in header.items():
        for field, (pattern, place) in _SIZES.items():
            if re.search(pattern, name) and len(shape) > place:
                said[field] = shape[place]
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = {shape[0] for name, (_, shape) in header.items() if name.endswith(".k_proj.weight") and shape}
    if keys and head_size:
        said["num_key_value_heads"] = max(keys) // head_size
    for field, value in said.items():
        if getattr(config, field, value) != value:
            raise ValueError(
                f"`{field}` must be {value} in the config of {str(name_or_path)!r}, as its tensors say, got "
                f"{getattr(config, field)}."
            )


def _listed(names: Iterable[str]) -> str:
    """Return how many tensors these are, with the names of the first ones."""
    ordered = sorted(names)
    rest = ", ..." if len(ordered) > _NUM_NAMED else ""
    noun = "tensor" if len(ordered) == 1 else "tensors"
    return f"{len(ordered)} {noun} ({', '.join(ordered[:_NUM_NAMED])}{rest})"


__all__ = ["WholeCheckpointMixin"]
