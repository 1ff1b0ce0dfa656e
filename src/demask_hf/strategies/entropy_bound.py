"""The EB-sampler's rule: positions of low entropy as long as their summed entropy stays small."""

from dataclasses import dataclass

import torch

from ..validation import check_choice, check_interval
from .base import UnmaskingStrategy, register_strategy
from .needs import Need
from .sequential import needs_of_order, position_scores
from .step import DenoisingStep


@register_strategy("entropy_bound")
@dataclass
class EntropyBoundStrategy(UnmaskingStrategy):
    r"""Unmask as many of the least uncertain positions as the bound on their summed entropy allows.

    In ascending order of entropy, `H_1 + ... + H_k - max(H_1, ..., H_k) <= entropy_bound`; the left side bounds the
    mutual information of the set (EB-sampler, arXiv 2505.24857).

    Args:
        entropy_bound (`float`, *optional*, defaults to 0.1):
            Upper limit in nats, at least 0.
        order (`str`, *optional*, defaults to `"entropy"`):
            "entropy" is the rule above. "confidence" is that of d2Cache's public code (its `gamma`): in descending
            order of the most likely token's probability, a position is unmasked if the entropies of those before it
            sum to at most the bound, which is then no bound on mutual information, as the last entropy need not be
            the largest.

    Example:

    Each pair of digits has a given sum. Several uncertain positions are unmasked in one step where their entropies
    fit under the bound:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="entropy_bound", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _+_, _+_, _+_, 9+9, _+2, _+_
    _+_, _+_, 1+_, 9+9, 1+2, _+_
    _+_, _+9, 1+4, 9+9, 1+2, _+_
    _+_, 3+9, 1+4, 9+9, 1+2, _+6
    1+_, 3+9, 1+4, 9+9, 1+2, 5+6
    1+6, 3+9, 1+4, 9+9, 1+2, 5+6

    ```
    """

    entropy_bound: float = 0.1

    order: str = "entropy"

    @property
    def sequential_order(self) -> str:
        return self.order

    @property
    def needs(self) -> frozenset[Need]:
        return needs_of_order(self.order) | {"entropy"}

    def __post_init__(self):
        check_interval("entropy_bound", self.entropy_bound, 0, infinite=True)
        check_choice("order", self.order, ("entropy", "confidence"))

    def select(self, step: DenoisingStep) -> torch.Tensor:
        # Rounding can produce an entropy just below 0, which must not make room for other positions.
        uncertainty = step.score("entropy").clamp(min=0).double()
        ranks = step.rank(-uncertainty if self.order == "entropy" else position_scores(step, self.order))
        ordered = torch.zeros(ranks.shape, dtype=torch.float64, device=ranks.device)
        ordered = ordered.scatter(-1, ranks, step.at_positions(uncertainty, 0.0))
        # In ascending order of entropy the largest one of a prefix is its last one.
        sum_of_others = (ordered.cumsum(dim=-1) - ordered).gather(-1, ranks)
        return step.candidates & (sum_of_others <= self.entropy_bound)
