"""Fast-dLLM's rules: all positions that are confident enough, and at least one."""

from dataclasses import dataclass

import torch

from ..validation import check_choice, check_interval
from .base import UnmaskingStrategy, register_strategy
from .step import DenoisingStep


# What happens to the last masked position in the public codes.
FACTOR_VARIANTS = ("stated", "fast_dllm", "d2cache")


@register_strategy("threshold")
@dataclass
class ThresholdStrategy(UnmaskingStrategy):
    r"""Unmask the most confident position, and all whose drawn token has at least the given probability.

    With `factor`, the number of positions follows from their confidence instead: sorted by descending confidence
    `c_1 >= c_2 >= ...`, the largest prefix is unmasked in which every rank `n` satisfies `(n + 1) * (1 - c_n) <=
    factor` (Fast-dLLM, arXiv 2505.22618). The public codes differ from this rule, and from each other, at the last
    masked position, see `factor_variant`.

    Args:
        confidence_threshold (`float`, *optional*, defaults to 0.9):
            Lowest probability, in [0, 1].
        factor (`float`, *optional*):
            Use the factor rule, with this limit, at least 0; `confidence_threshold` is then ignored.
        factor_variant (`str`, *optional*, defaults to `"stated"`):
            "stated" is the rule above. The others are rules of public code, for its numbers: "fast_dllm" (Fast-dLLM)
            unmasks the last rank of a block, too, if it is the only one that fails, however uncertain it is;
            "d2cache" (d2Cache) leaves the last rank for the next step even if it passes, unless it is alone, and
            there a rank fails at equality.

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
    factor_variant: str = "stated"

    sequential_order = "token_probability"
    needs = frozenset({"token_probability"})

    def __post_init__(self):
        check_interval("confidence_threshold", self.confidence_threshold, 0, 1)
        if self.factor is not None:
            check_interval("factor", self.factor, 0, infinite=True)
        check_choice("factor_variant", self.factor_variant, FACTOR_VARIANTS)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        confidence = step.score("token_probability")
        if self.factor is None:
            is_confident = step.at_positions(confidence >= self.confidence_threshold, False)
            return is_confident | step.best(confidence, 1)
        return step.best(confidence, self._count(step, confidence, self.factor))

    def _count(self, step: DenoisingStep, confidence: torch.Tensor, factor: float) -> torch.Tensor:
        """Return how many positions the factor rule unmasks in each row, shape `(batch,)`."""
        ranks = step.rank(confidence)
        # A position is taken if its own rank and all better ones pass: the first failing rank ends the prefix.
        slack = (ranks + 2) * (1 - step.at_positions(confidence.double(), 0.0))
        fails = slack >= factor if self.factor_variant == "d2cache" else slack > factor
        fails &= step.candidates & (ranks > 0)
        num_candidates = step.candidates.sum(dim=-1)
        count = torch.where(fails, ranks, ranks.shape[-1]).amin(dim=-1).minimum(num_candidates)
        if self.factor_variant == "fast_dllm":
            return torch.where(count == num_candidates - 1, num_candidates, count)
        if self.factor_variant == "d2cache":
            return count.minimum((num_candidates - 1).clamp(min=1))
        return count
