"""Attention weights of a model's last layers, with any attention implementation."""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


# An attention implementation for transformers: SDPA that also passes its inputs to the reader of the thread. The name
# contains "sdpa", so that transformers refuses it where it refuses SDPA.
_IMPLEMENTATION = "demask_readable_sdpa"
# Implementations that take a mask of four dimensions.
MASK_IMPLEMENTATIONS = ("sdpa", "eager")


def check_takes_masks(config: Any, name: str) -> None:
    """Refuse an attention implementation that takes no mask of four dimensions, for a model whose blocks need one.

    Args:
        config (`PreTrainedConfig`):
            Config that names the implementation; without a name it is the model's own.
        name (`str`):
            Class of the model.

    Raises:
        ValueError: if it is neither SDPA nor eager attention.
    """
    implementation = getattr(config, "_attn_implementation", None)
    if implementation not in (*MASK_IMPLEMENTATIONS, _IMPLEMENTATION, None):
        raise ValueError(
            f"`attn_implementation` must be one of {', '.join(MASK_IMPLEMENTATIONS)} for a {name}, which takes a mask "
            f"of its blocks, got {implementation!r}."
        )


class _Current(threading.local):
    """What a thread reads at the moment: the reader, and the configs that name the implementation above to it."""

    reader: "AttentionReader | None" = None
    configs: frozenset[int] = frozenset()


_current = _Current()


class AttentionReader:
    """Calls a model and keeps the attention of its last layers, averaged over heads and layers.

    A transformers model that supports SDPA uses it during the call, in this thread only: others that run the model at
    the same time use its own implementation. Weights are computed for the requested layers only, one layer at a time,
    in float32. Any other model is called with `output_attentions`.

    Args:
        model (`torch.nn.Module`):
            The model.
        layers (`Callable[[int], int]`):
            Maps the number of layers of the model to the number of last layers to average.
    """

    def __init__(self, model: torch.nn.Module, layers: Callable[[int], int]):
        self.model, self.layers = model, layers
        #: Attention `[query, key]` of shape `(batch, length, length)`, float32; `None` before the first call.
        self.attentions: torch.Tensor | None = None
        self._num_seen, self._first_read = 0, 0

    def __call__(self, **inputs: Any) -> Any:
        """Return the model's outputs.

        Raises:
            ValueError: if the model does not return its attention weights.
        """
        model = self.model
        if isinstance(model, PreTrainedModel) and model._supports_sdpa and model._can_set_attn_implementation():
            return self._read(model, inputs)
        return self._ask(inputs)

    def see(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float | None,
        position_bias: torch.Tensor | None = None,
    ) -> None:
        """Record the attention of one layer; the arguments are those of an attention implementation."""
        self._num_seen += 1
        if self._num_seen <= self._first_read:
            return
        query, key = query.float(), key.float().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if position_bias is not None:
            scores = scores + position_bias
        if mask is not None:
            # The lowest finite number: padding may attend to nothing, and a NaN would spread.
            lowest = torch.finfo(scores.dtype).min
            scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
        weights = scores.softmax(dim=-1).mean(dim=1)
        # In a model spread over devices, the sum follows the layers.
        self.attentions = weights if self.attentions is None else self.attentions.to(weights.device) + weights

    def _read(self, model: PreTrainedModel, inputs: dict[str, Any]) -> Any:
        num_layers = model.config.num_hidden_layers
        num_read = min(self.layers(num_layers), num_layers)
        self.attentions, self._num_seen, self._first_read = None, 0, num_layers - num_read
        with self._reading(model):
            outputs = model(**inputs)
        if self._num_seen != num_layers or self.attentions is None:
            raise ValueError(
                f"`model` must return the attention of each of its {num_layers} layers once to this strategy, got "
                f"{self._num_seen} from {type(model).__name__}."
            )
        self.attentions = self.attentions / num_read
        return outputs

    @contextmanager
    def _reading(self, model: PreTrainedModel) -> Iterator[None]:
        """Let the model's configs name the readable implementation in this thread, and pass this reader to it."""
        configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
        for config in configs:
            config_class: Any = type(config)
            _answer_by_thread(config_class)
        before = _current.reader, _current.configs
        _current.reader, _current.configs = self, frozenset(map(id, configs))
        try:
            yield
        finally:
            _current.reader, _current.configs = before

    def _ask(self, inputs: dict[str, Any]) -> Any:
        parameters = inspect.signature(type(self.model).forward).parameters
        is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        attentions, outputs = None, None
        if is_open or "output_attentions" in parameters:
            outputs = self.model(**inputs, output_attentions=True)
            attentions = getattr(outputs, "attentions", None)
        if not attentions or any(layer is None for layer in attentions):
            raise ValueError(
                f"`model` must return `attentions` for a strategy that reads them, got none from "
                f"{type(self.model).__name__}."
            )
        read = attentions[-min(self.layers(len(attentions)), len(attentions)) :]
        self.attentions = sum(layer.float().mean(dim=1).to(read[-1].device) for layer in read) / len(read)
        return outputs


def _readable_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute SDPA, and pass the inputs to the reader of this thread."""
    reader = _current.reader
    if reader is not None:
        reader.see(query, key, attention_mask, scaling, kwargs.get("position_bias"))
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    return attend(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


@functools.cache
def _answer_by_thread(config_class: Any) -> None:
    """Let configs of a class say which implementation the asking thread is to use.

    Layers and masks ask the config, which threads share: a value written there would be used by all of them.
    """
    shared = config_class._attn_implementation

    def own(config: Any) -> Any:
        # Compiled models are never read, and their graphs must not depend on the thread that compiles them.
        is_read = not torch.compiler.is_compiling() and id(config) in _current.configs
        return _IMPLEMENTATION if is_read else shared.fget(config)

    config_class._attn_implementation = property(own, shared.fset)


AttentionInterface.register(_IMPLEMENTATION, _readable_attention)
AttentionMaskInterface.register(_IMPLEMENTATION, sdpa_mask)
