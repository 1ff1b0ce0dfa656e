"""No two neighbours in one step: positions that lie far enough from each other."""

from dataclasses import dataclass

import torch

from ..functional.dependency import low_dependency_subset
from ..validation import check_choice, check_count
from .base import UnmaskingStrategy, register_strategy
from .needs import Need
from .sequential import ORDERS, needs_of_order, position_scores
from .step import DenoisingStep


@register_strategy("distance")
@dataclass
class DistanceStrategy(UnmaskingStrategy):
    r"""Walk the positions by confidence and unmask each that lies at least `gap` places from those taken so far.

    It reads no dependencies: a baseline for the walk of [`DemaskStrategy`], the same as its rule "max" with
    dependencies of 1 between positions that are nearer than the gap and 0 between all others.

    Args:
        gap (`int`, *optional*, defaults to 2):
            Smallest distance between two positions of one step, at least 1. 1 unmasks everything at once, 2 no two
            neighbours.
        order (`str`, *optional*, defaults to `"confidence"`):
            Order of the walk: "confidence", "entropy", "margin", "left_to_right", "random" or "token_probability" (of
            the drawn token).

    Example:

    Each pair of digits has a given sum. The two digits of a pair lie two places apart, so a gap of 3 keeps them apart:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="distance", gap=3, return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _+___+___+___+___+___+__
    1+_, _+_, _+_, _+_, _+_, _+_
    1+6, _+_, 4+_, _+9, _+2, _+6
    1+6, _+9, 4+_, 9+9, 1+2, 5+6
    1+6, 3+9, 4+1, 9+9, 1+2, 5+6

    ```
    """

    gap: int = 2
    order: str = "confidence"

    @property
    def sequential_order(self) -> str:
        return self.order

    @property
    def needs(self) -> frozenset[Need]:
        return needs_of_order(self.order)

    def __post_init__(self):
        check_count("gap", self.gap)
        check_choice("order", self.order, ORDERS)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        index = step.index
        is_position = index.padded(torch.ones_like(index.ranks, dtype=torch.bool))
        columns = index.padded(step.columns)
        is_near = (columns[:, :, None] - columns[:, None, :]).abs() < self.gap
        scores = index.padded(position_scores(step, self.order))
        kept = low_dependency_subset(is_near.float(), scores, is_position, bound=0.0, rule="max")
        return step.at_positions(index.flat(kept), False)
