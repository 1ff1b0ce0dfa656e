"""What an unmasking strategy is: a dataclass of limits with one method that selects positions."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch

from ..validation import nearest
from .decision import Decision
from .drafts import Drafts
from .needs import NEEDS, AnswerGaps, LastLayers, Need, Shadows
from .settings import DecodingSettings
from .step import DenoisingStep


_Strategy = TypeVar("_Strategy", bound="UnmaskingStrategy")
# Maps a module to the callable that `generate` runs: the module itself, or compiled.
Compiled = Callable[[torch.nn.Module], Callable[..., Any]]


def as_it_is(module: torch.nn.Module) -> Callable[..., Any]:
    """Return the module itself, not compiled."""
    return module


class UnmaskingStrategy(ABC):
    """Selects the masked positions to unmask in a step; the loop decides which tokens are written there.

    A strategy is a dataclass, decorated with [`register_strategy`]; its fields are its limits, checked in
    `__post_init__`. `select` is the one method that it must have. Memory between steps is kept in fields with
    `init=False, repr=False`: `generate` works on a fresh copy, so nothing remains from an earlier call.
    """

    name: ClassVar[str]
    #: Whether the strategy runs on models with canvases only, and is then no name of `strategy_names`.
    runs_on_canvases: ClassVar[bool] = False
    # The members below are class attributes in most strategies, and properties where they depend on fields.

    @property
    def allows_empty_step(self) -> bool:
        """Whether `select` may return no position for a row (a fixed schedule).

        With `False`, the default, the loop adds the most confident candidate of such a row.
        """
        return False

    @property
    def follows_schedule(self) -> bool:
        """Whether `max_denoising_steps` is the strategy's plan rather than a cap, which is the default."""
        return False

    @property
    def remasks(self) -> bool:
        """Whether `select` may change positions that are written: send them back to mask, or edit them."""
        return False

    @property
    def selects_in_all_blocks(self) -> bool:
        """Whether candidates are the open positions of all blocks; those of the row's own are `step.in_block`."""
        return False

    @property
    def sequential_order(self) -> str:
        """Score of the "sequential" strategy with the same order and draws, which this one is compared with."""
        return "confidence"

    @property
    def needs(self) -> frozenset[Need]:
        """What `select` reads of a step: names out of `NEEDS`, [`LastLayers`], [`AnswerGaps`] and [`Shadows`].

        Only what is named is computed. Whole distributions ("probabilities", the default) take most of the memory
        where the vocabulary is large; the scores do not.
        """
        return frozenset({"probabilities"})

    def bind(  # noqa: B027 - most strategies need nothing from the model
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        """Take what the strategy needs from the model, once for each `generate` call; by default nothing.

        Args:
            model (`torch.nn.Module`):
                The model.
            settings ([`DecodingSettings`], *optional*):
                Settings of the decoding; `None` if nothing is decoded.
            compiled (`Callable`, *optional*):
                Maps a network of the strategy to the callable to use instead, such as its compiled form.
        """

    @abstractmethod
    def select(self, step: DenoisingStep) -> torch.Tensor | Decision:
        """Return the positions to unmask: a subset of `step.candidates`, shape `(batch, length)`.

        A [`Decision`] may hold their tokens, and positions to remask or edit, as well.
        """

    @property
    def num_versions(self) -> int:
        """Most versions of a row in one forward, the row itself included; above 1 if the strategy makes drafts."""
        return 1

    def drafts(self, step: DenoisingStep, selected: torch.Tensor) -> Drafts | None:
        """Return versions of the rows to compute beside them in the next forward; by default none.

        In the next step `select` sees all versions. Each row then moves to the last version that is verified: the row
        itself is, and so is a draft that a verified version becomes in that step, see `accepts`. A strategy that runs
        others makes no drafts unless it says so itself.

        Args:
            step ([`DenoisingStep`]):
                The step that is being taken, of the rows only.
            selected (`torch.BoolTensor` of shape `(batch, length)`):
                Positions that it writes.
        """
        return None

    def accepts(self, drafts: torch.Tensor, outcomes: torch.Tensor, num_steps: torch.Tensor) -> torch.Tensor:
        """Return whether a row may move on to each of its drafts; by default only to what it becomes in one step.

        Args:
            drafts (`torch.LongTensor` of shape `(num_versions, batch, length)`):
                All versions of the rows.
            outcomes (`torch.LongTensor` of shape `(batch, length)`):
                What a verified version of each row becomes in this step.
            num_steps (`torch.LongTensor` of shape `(num_versions, batch)`):
                Steps that the drafts are ahead of that version.

        Returns:
            `torch.BoolTensor` of shape `(num_versions, batch)`.
        """
        return (drafts == outcomes).all(dim=-1) & (num_steps == 1)

    def fresh(self: _Strategy, **fields: Any) -> _Strategy:
        """Return a copy without the memory of earlier steps, with some fields replaced."""
        return dataclasses.replace(self, **fields)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the fields; [`make_strategy`] builds an equal strategy from them."""
        return {"name": self.name, **{each: getattr(self, each) for each in fields_of(type(self))}}


class WrappingStrategy(UnmaskingStrategy):
    """A strategy that runs others, for example to record them; it needs everything that they need.

    Otherwise it behaves like the first of them.
    """

    @property
    @abstractmethod
    def wrapped(self) -> tuple[UnmaskingStrategy, ...]:
        """The strategies; the first one decides."""

    @property
    def allows_empty_step(self) -> bool:
        return self.wrapped[0].allows_empty_step

    @property
    def follows_schedule(self) -> bool:
        return self.wrapped[0].follows_schedule

    @property
    def remasks(self) -> bool:
        return self.wrapped[0].remasks

    @property
    def selects_in_all_blocks(self) -> bool:
        return self.wrapped[0].selects_in_all_blocks

    @property
    def sequential_order(self) -> str:
        return self.wrapped[0].sequential_order

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset[Need]().union(*(strategy.needs for strategy in self.wrapped))

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        for strategy in self.wrapped:
            strategy.bind(model, settings, compiled)


def check_needs(strategy: UnmaskingStrategy) -> None:
    """Refuse a strategy whose needs cannot be met.

    Raises:
        ValueError: if a need is unknown, or attention is requested in two ways.
    """
    layers = [need for need in strategy.needs if isinstance(need, LastLayers)]
    for need in strategy.needs:
        if not isinstance(need, LastLayers | AnswerGaps | Shadows) and need not in NEEDS:
            raise ValueError(f"`needs` must hold names among {', '.join(NEEDS)}, or LastLayers, got {need!r}.")
    if len(layers) > 1:
        raise ValueError(f"`needs` must hold one LastLayers at most, got {len(layers)}: {layers}.")


_REGISTRY: dict[str, type[UnmaskingStrategy]] = {}


def register_strategy(name: str) -> Callable[[type[UnmaskingStrategy]], type[UnmaskingStrategy]]:
    """Make a strategy available as `generate(strategy=name)`.

    Args:
        name (`str`):
            The name; must not be taken.

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
    """Return the names of all registered strategies that run on models with a mask token, sorted."""
    return sorted(name for name, known in _REGISTRY.items() if not known.runs_on_canvases)


def strategy_fields(name: str) -> dict[str, Any]:
    """Return the fields of a strategy with their defaults.

    Raises:
        ValueError: if the name is unknown.
    """
    return fields_of(_class_of(name))


def fields_of(strategy_class: type[UnmaskingStrategy]) -> dict[str, Any]:
    """Return the fields that a strategy is built with, with their defaults."""
    return {each.name: each.default for each in dataclasses.fields(strategy_class) if each.init}  # type: ignore[arg-type]


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
