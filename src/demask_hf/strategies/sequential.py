"""One token per forward pass, in an order given by a score."""

from dataclasses import dataclass

import torch

from ..functional.dependency import DEPENDENCY_ORDERS
from ..validation import check_choice
from .base import UnmaskingStrategy, make_strategy, register_strategy
from .needs import Need
from .step import DenoisingStep


ORDERS = ("confidence", "entropy", "margin", "left_to_right", "random", "token_probability")


@register_strategy("sequential")
@dataclass
class SequentialStrategy(UnmaskingStrategy):
    r"""Unmask the position with the highest score in each forward pass; the reference for quality.

    Args:
        order (`str`, *optional*, defaults to `"confidence"`):
            "confidence" (highest probability), "entropy" (lowest entropy), "margin" (highest minus second highest
            probability), "left_to_right", "random", or "token_probability" (probability of the drawn token, which
            differs from "confidence" when sampling).

    Example:

    Each pair of digits has a given sum. One token per forward pass, 26 in all; the first four:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="sequential", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer)[:4], sep="\n")
    _+______________________
    _+_, ____________________
    _+_, _+__________________
    _+_, _+_, ________________

    ```
    """

    order: str = "confidence"

    @property
    def sequential_order(self) -> str:
        return self.order

    @property
    def needs(self) -> frozenset[Need]:
        return needs_of_order(self.order)

    def __post_init__(self):
        check_choice("order", self.order, ORDERS)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        return step.best(position_scores(step, self.order), 1)


def one_at_a_time(strategy: UnmaskingStrategy) -> UnmaskingStrategy:
    """Return a strategy with one token per forward pass, and the order and the draws of another one.

    Args:
        strategy ([`UnmaskingStrategy`]):
            The other one. The orders "influence" and "degree" come from dependencies, so there it is the strategy
            itself with a bound of 0, or `demask` if it has no bound: several positions are unmasked only where their
            dependencies are exactly 0.
    """
    order = strategy.sequential_order
    if order in DEPENDENCY_ORDERS:
        has_bound = hasattr(strategy, "dependency_bound")
        return (strategy if has_bound else make_strategy("demask", order=order)).fresh(dependency_bound=0.0)
    return SequentialStrategy(order)


def position_scores(step: DenoisingStep, order: str) -> torch.Tensor:
    """Return the score of each candidate in an order of positions, higher first.

    Args:
        step ([`DenoisingStep`]):
            The step.
        order (`str`):
            One of `ORDERS`.

    Returns:
        `torch.Tensor` of shape `(num_candidates,)`.
    """
    if order == "left_to_right":
        return -step.columns.double()
    if order == "random":
        return step.noise(stream=1)
    return -step.score(order) if order == "entropy" else step.score(order)


def needs_of_order(order: str | None) -> frozenset[Need]:
    """Return what [`position_scores`] reads of a step."""
    return frozenset() if order in (None, "left_to_right", "random") else frozenset({order})


def scores_of_walk(
    step: DenoisingStep, order: str, dependencies: torch.Tensor, is_position: torch.Tensor
) -> torch.Tensor:
    """Return the score of each candidate in the order of a walk, higher first, padded as in `step.index`.

    Args:
        step ([`DenoisingStep`]):
            The step.
        order (`str`):
            One of `ORDERS`, or of `DEPENDENCY_ORDERS`.
        dependencies (`torch.Tensor` of shape `(active rows, positions, positions)`):
            `D[source, target]`, which some orders come from.
        is_position (`torch.BoolTensor` of shape `(active rows, positions)`):
            Entries that stand for a position.
    """
    if order in DEPENDENCY_ORDERS:
        return DEPENDENCY_ORDERS[order](dependencies, is_position)
    return step.index.padded(position_scores(step, order))
