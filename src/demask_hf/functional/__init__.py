"""The mathematics, as functions of tensors; imports only torch.

Read `dependency.py` first: it holds the rule that gives the method its name; `partition.py` applies it to all of the
positions. Then `distributions.py` (properties of one prediction: confidence, entropy, total variation), `sampling.py`
(from logits to tokens), `probes.py` (dependencies measured by revealing tokens) and `masking.py` (the forward
process). `candidates.py` is bookkeeping.
"""

from .candidates import CandidateIndex
from .dependency import RULES, dependency_bound_of, low_dependency_subset, ranks
from .distributions import certainty, confidence, entropy, kl_divergence, margin, total_variation
from .masking import left_padded_positions, random_mask, steps_of_blocks, unmask_shares
from .probes import MeasuredDependencies, measure_dependencies
from .sampling import Sampling, draw_tokens, filter_logits, inverse_transform, uniform_noise


__all__ = [
    "RULES",
    "CandidateIndex",
    "MeasuredDependencies",
    "Sampling",
    "certainty",
    "confidence",
    "dependency_bound_of",
    "draw_tokens",
    "entropy",
    "filter_logits",
    "inverse_transform",
    "kl_divergence",
    "left_padded_positions",
    "low_dependency_subset",
    "margin",
    "measure_dependencies",
    "random_mask",
    "ranks",
    "steps_of_blocks",
    "total_variation",
    "uniform_noise",
    "unmask_shares",
]
