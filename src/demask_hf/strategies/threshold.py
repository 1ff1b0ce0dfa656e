"""Fast-dLLM's rules: all positions that are confident enough, and at least one."""

from dataclasses import dataclass

import torch

from ..validation import check_interval
from .base import UnmaskingStrategy, register_strategy
from .step import DenoisingStep


@register_strategy("threshold")
@dataclass
class ThresholdStrategy(UnmaskingStrategy):
    r"""Unmask the most confident position, and all whose drawn token has at least the given probability.

    With `factor`, the number of positions follows from their confidence instead: sorted by descending confidence
    `c_1 >= c_2 >= ...`, the largest prefix is unmasked in which every rank `n` satisfies `(n + 1) * (1 - c_n) <=
    factor` (Fast-dLLM, arXiv 2505.22618).

    Args:
        confidence_threshold (`float`, *optional*, defaults to 0.9):
            Lowest probability, in [0, 1].
        factor (`float`, *optional*):
            Use the factor rule, with this limit, at least 0; `confidence_threshold` is then ignored.

    Example:

    Each pair of digits has a given sum. Only positions of high confidence are unmasked together:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="threshold", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _+_, _+_, _+_, 9+9, _+_, _+_
    _+_, _+_, _+_, 9+9, _+2, _+_
    _+_, _+_, _+_, 9+9, 1+2, _+_
    _+_, _+_, 1+_, 9+9, 1+2, _+_
    _+_, _+_, 1+4, 9+9, 1+2, _+_
    _+_, _+9, 1+4, 9+9, 1+2, _+_
    _+_, 3+9, 1+4, 9+9, 1+2, _+_
    _+1, 3+9, 1+4, 9+9, 1+2, _+_
    6+1, 3+9, 1+4, 9+9, 1+2, _+_
    6+1, 3+9, 1+4, 9+9, 1+2, _+6
    6+1, 3+9, 1+4, 9+9, 1+2, 5+6

    ```
    """

    confidence_threshold: float = 0.9
    factor: float | None = None

    sequential_order = "token_probability"
    needs = frozenset({"token_probability"})

    def __post_init__(self):
        check_interval("confidence_threshold", self.confidence_threshold, 0, 1)
        if self.factor is not None:
            check_interval("factor", self.factor, 0, infinite=True)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        confidence = step.score("token_probability")
        if self.factor is None:
            is_confident = step.at_positions(confidence >= self.confidence_threshold, False)
            return is_confident | step.best(confidence, 1)
        ranks = step.rank(confidence)
        # A position is taken if its own rank and all better ones pass: the first failing rank ends the prefix.
        slack = (ranks + 2) * (1 - step.at_positions(confidence.double(), 0.0))
        fails = step.candidates & (slack > self.factor) & (ranks > 0)
        first_failing = torch.where(fails, ranks, ranks.shape[-1]).min(dim=-1, keepdim=True).values
        return step.candidates & (ranks < first_failing)
