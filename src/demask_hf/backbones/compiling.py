"""`generate(compile=...)`: body, head and scores through `torch.compile`, with few distinct shapes."""

import dataclasses
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from .backbone import Backbone
from .prediction import Prediction, PredictionRequest, has_forward_of_its_own, replaced_forward


class CompiledBackbone(Backbone):
    """A backbone whose body (everything before the output layer) is compiled.

    The output layer sees a different number of positions in every step and is not compiled. Of the body's shapes, only
    the number of rows changes within a call, because finished rows leave the batch. It is filled up to a power of two
    with copies of a row, so that few shapes are compiled or recorded as CUDA graphs.

    The forward of a compiled module is replaced while it runs, so threads that decode with compiled modules take
    turns.

    Args:
        backbone ([`Backbone`]):
            The model.
        compile (`bool`, `str` or `dict`):
            `True`, a mode of `torch.compile`, or its arguments.

    Raises:
        ValueError: if the forward of the body was replaced, as accelerate does to move weights between devices.
    """

    def __init__(self, backbone: Backbone, compile: bool | str | dict[str, Any]):
        super().__init__(backbone.model, backbone.mask_token_id, backbone.quirks)
        module = self.states_module
        self._body = _CompiledModule(self.model if module is None else module, compile)

    def compiled(self, function: Callable) -> Callable:
        """Compile a function for any number of candidates, without CUDA graphs: each number would need its own."""
        backend = {name: value for name, value in self._body.options.items() if name == "backend"}
        return _compiled(function, _frozen({**backend, "dynamic": True}))

    @torch.no_grad()
    def predict(self, request: PredictionRequest) -> Prediction:
        """Run the compiled model once, see [`Backbone.predict`]; its attention cannot be read."""
        cache = request.cache
        if cache is not None:
            # Copies of a row keep the same keys and values as the row.
            cache.rows, cache.columns = _filled(cache.rows), _filled(cache.columns)
        tensors = ("sequences", "attention_mask", "token_type_ids")
        filled: dict[str, Any] = {name: _filled(getattr(request, name)) for name in tensors}
        torch.compiler.cudagraph_mark_step_begin()
        with self._body.running():
            return super().predict(dataclasses.replace(request, candidates=request.places, **filled))


class CompiledHead:
    """A dependency head whose forward is compiled; rows and positions are padded, so that few shapes occur.

    Rows are padded to a power of two; positions to a power of two or three quarters of one, because the cost of pairs
    grows with the square.

    Args:
        head ([`DemaskHead`]):
            The head.
        compile (`bool`, `str` or `dict`):
            As in [`CompiledBackbone`], with the same error.
    """

    def __init__(self, head: torch.nn.Module, compile: bool | str | dict[str, Any]):
        self.head, self._module = head, _CompiledModule(head, compile)

    def __call__(self, hidden_states: torch.Tensor, **inputs: torch.Tensor) -> Any:
        """Return what the head returns, see [`DemaskHead.forward`], with dependencies of the given positions only."""
        rows, size = hidden_states.shape[:2]
        if inputs.get("is_position") is None:
            inputs["is_position"] = torch.ones((rows, size), dtype=torch.bool, device=hidden_states.device)
        inputs["hidden_states"] = hidden_states
        filled = {name: _filled_both(tensor) for name, tensor in inputs.items()}
        with self._module.running():
            output = self.head(**filled)
        output.dependencies = output.dependencies[:rows, :size, :size]
        return output


class _CompiledModule:
    """A module and its compiled forward, which replaces its own forward while it runs."""

    def __init__(self, module: torch.nn.Module, compile: bool | str | dict[str, Any]):
        if has_forward_of_its_own(module):
            raise ValueError(
                f"`compile` must not be used with a model whose forward was replaced, got {compile!r} for a "
                f"{type(module).__name__} with hooks of accelerate or another wrapper."
            )
        self.options = compile if isinstance(compile, dict) else {} if compile is True else {"mode": compile}
        self._module, self._forward = module, _compiled(type(module).forward, _frozen(self.options))

    def running(self) -> AbstractContextManager[None]:
        """Let calls of the module run its compiled forward in this thread, see [`replaced_forward`]."""
        return replaced_forward(self._module, functools.partial(self._forward, self._module))


@functools.cache
def _compiled(function: Callable, options: tuple) -> Callable:
    """Compile a function, such as a class's forward, once per process."""
    arguments: dict[str, Any] = {name: dict(value) if name == "options" else value for name, value in options}
    return torch.compile(function, **arguments)


def _frozen(options: dict[str, Any]) -> tuple:
    """Return options in a hashable form."""
    return tuple(
        (name, tuple(sorted(value.items())) if isinstance(value, dict) else value)
        for name, value in sorted(options.items())
    )


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()


def _filled(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Repeat the last row until the number of rows is a power of two."""
    if tensor is None:
        return None
    num_missing = _power_of_two(len(tensor)) - len(tensor)
    return torch.cat([tensor, tensor[-1:].repeat_interleave(num_missing, dim=0)]) if num_missing else tensor


def _filled_both(tensor: torch.Tensor) -> torch.Tensor:
    """Pad rows and positions with zeros, see [`CompiledHead`]."""
    rows, size = tensor.shape[:2]
    wanted = _power_of_two(size)
    if size <= 3 * wanted // 4:
        wanted = 3 * wanted // 4
    padding = (tensor.ndim - 2) * [0, 0] + [0, wanted - size, 0, _power_of_two(rows) - rows]
    return torch.nn.functional.pad(tensor, padding) if any(padding) else tensor
