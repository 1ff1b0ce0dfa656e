"""The EB-sampler's rule: positions of low entropy as long as their summed entropy stays small."""

from dataclasses import dataclass

import torch

from ..validation import check_interval
from .base import UnmaskingStrategy, register_strategy
from .step import DenoisingStep


@register_strategy("entropy_bound")
@dataclass
class EntropyBoundStrategy(UnmaskingStrategy):
    """Unmask the largest set of least uncertain positions whose entropies, without the largest, sum to the bound.

    In ascending order of entropy, `H_1 + ... + H_k - max(H_1, ..., H_k) <= entropy_bound`; the left side bounds the
    mutual information of the set (EB-sampler, arXiv 2505.24857).

    Args:
        entropy_bound (`float`, *optional*, defaults to 0.1):
            Upper limit in nats, at least 0.
    """

    entropy_bound: float = 0.1

    sequential_score = "entropy"
    needs = frozenset({"entropy"})

    def __post_init__(self):
        check_interval("entropy_bound", self.entropy_bound, 0)

    def select(self, step: DenoisingStep) -> torch.BoolTensor:
        # Rounding can leave an entropy just below 0, which must not pay for other positions.
        uncertainty = step.score("entropy").clamp(min=0).double()
        ranks = step.rank(-uncertainty)
        ordered = torch.zeros(ranks.shape, dtype=torch.float64, device=ranks.device)
        ordered = ordered.scatter(-1, ranks, step.at_positions(uncertainty, 0.0))
        # In ascending order the largest entropy of a prefix is its last one.
        sum_of_others = (ordered.cumsum(dim=-1) - ordered).gather(-1, ranks)
        return step.candidates & (sum_of_others <= self.entropy_bound)
