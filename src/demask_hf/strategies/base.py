"""What an unmasking strategy is: a dataclass of its limits with one method that picks positions."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from ..validation import nearest
from .step import DenoisingStep


class UnmaskingStrategy(ABC):
    """Decides which masked positions are unmasked in a step; which token is written is the loop's business.

    A strategy is a dataclass, decorated with [`register_strategy`]; its fields are its limits, checked in
    `__post_init__`. Memory between steps sits in fields with `init=False, repr=False`: `generate` works on
    `dataclasses.replace(strategy)`, so that nothing is left over from call to call.
    """

    name: ClassVar[str]
    #: `select` may return no position for a row (a fixed schedule); otherwise the loop adds the most confident one.
    allows_empty_step: ClassVar[bool] = False
    #: `max_denoising_steps` is the strategy's plan rather than a cap.
    follows_schedule: ClassVar[bool] = False
    #: `step.hidden_states` must be there.
    needs_hidden_states: ClassVar[bool] = False
    #: Score of the "sequential" strategy whose order and draws are the same: what this one is compared with.
    sequential_score: ClassVar[str] = "confidence"
    #: `step.attentions` must be there, averaged over the layers that `attention_layers` asks for.
    needs_attentions: ClassVar[bool] = False
    #: `step.context_confidence` must be there; the output layer then sees every visible position, too.
    needs_context_confidence: ClassVar[bool] = False

    @property
    def reads(self) -> tuple[str, ...] | None:
        """Names of the scores that `select` asks `step.score` for, "confidence" aside, which is always there.

        With `None`, the default, `step.probabilities` holds whole distributions. For a large vocabulary naming the
        scores saves most of the memory.
        """
        return None

    def attention_layers(self, num_layers: int) -> int:
        """Return over how many of the model's last layers `step.attentions` is averaged, at least 1."""
        return num_layers

    def bind(self, model: torch.nn.Module) -> None:  # noqa: B027 - most strategies need nothing from the model
        """Take what the strategy needs from the model, once for each `generate` call; by default nothing."""

    def compile(self, compiled: Callable[[torch.nn.Module], Callable]) -> None:  # noqa: B027 - most run no network
        """Run networks of the strategy's own as `compiled` returns them; asked for after `bind`, by default none."""

    @abstractmethod
    def select(self, step: DenoisingStep) -> torch.BoolTensor:
        """Return the positions to unmask: a subset of `step.candidates`, shape `(batch, length)`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the fields; [`make_strategy`] with them gives an equal strategy."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.init}
        return {"name": self.name, **fields}


_REGISTRY: dict[str, type[UnmaskingStrategy]] = {}


def register_strategy(name: str) -> Callable[[type[UnmaskingStrategy]], type[UnmaskingStrategy]]:
    """Make a strategy available as `generate(strategy=name)`.

    Args:
        name (`str`):
            The name; must be free.

    Returns:
        A decorator for a dataclass that inherits [`UnmaskingStrategy`].

    Raises:
        ValueError: if the name is taken.
        TypeError: if the class is not a dataclass that inherits [`UnmaskingStrategy`].

    Example:

    ```python
    >>> from dataclasses import dataclass
    >>> from demask_hf import UnmaskingStrategy, register_strategy

    >>> @register_strategy("everything")
    ... @dataclass
    ... class Everything(UnmaskingStrategy):
    ...     def select(self, step):
    ...         return step.candidates

    ```
    """

    def register(strategy_class: type[UnmaskingStrategy]) -> type[UnmaskingStrategy]:
        if name in _REGISTRY:
            raise ValueError(f"`name` must not be taken, got {name!r}; registered are {', '.join(sorted(_REGISTRY))}.")
        is_strategy = isinstance(strategy_class, type) and issubclass(strategy_class, UnmaskingStrategy)
        if not is_strategy or not dataclasses.is_dataclass(strategy_class):
            raise TypeError(f"A strategy must be a dataclass that inherits UnmaskingStrategy, got {strategy_class!r}.")
        strategy_class.name = name
        _REGISTRY[name] = strategy_class
        return strategy_class

    return register


def strategy_names() -> list[str]:
    """Return the names of all registered strategies, sorted."""
    return sorted(_REGISTRY)


def strategy_fields(name: str) -> dict[str, Any]:
    """Return the fields of a strategy with their defaults.

    Raises:
        ValueError: if the name is unknown.
    """
    return {each.name: each.default for each in dataclasses.fields(_class_of(name)) if each.init}


def make_strategy(name: str, **fields: Any) -> UnmaskingStrategy:
    """Build a registered strategy.

    Args:
        name (`str`):
            Registered name.
        fields:
            The strategy's fields; defaults apply to those left out.

    Raises:
        ValueError: if the name or a field is unknown, or a value is outside its range.
    """
    known = strategy_fields(name)
    for given in fields:
        if given not in known:
            raise ValueError(
                f"`{given}` must be a field of strategy {name!r}, got an unknown keyword; "
                f"{nearest(given, known) or 'it has no fields'}."
            )
    return _class_of(name)(**fields)


def _class_of(name: str) -> type[UnmaskingStrategy]:
    if name not in _REGISTRY:
        raise ValueError(f"`strategy` must be a registered name, got {name!r}; {nearest(str(name), _REGISTRY)}.")
    return _REGISTRY[name]
