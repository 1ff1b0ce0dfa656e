"""Paired comparisons of strategies on the same prompts."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of two methods over prompts, with bootstrap bounds.

    Args:
        mean (`float`): Mean of first minus second.
        lower (`float`): One-sided lower bound at the chosen confidence.
        upper (`float`): One-sided upper bound at the chosen confidence.
        num_prompts (`int`): Number of prompts.
    """

    mean: float
    lower: float
    upper: float
    num_prompts: int


def paired_difference(
    first: np.ndarray, second: np.ndarray, confidence: float = 0.95, num_resamples: int = 4_000, seed: int = 0
) -> PairedDifference:
    """Bootstrap the mean difference over prompts.

    Scores of several seeds are averaged within each prompt first: seeds of one prompt are not independent.

    Args:
        first (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            Scores of one method.
        second (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            Scores of the other on the same prompts in the same order.
        confidence (`float`, *optional*, defaults to 0.95):
            One-sided confidence of each bound, in (0.5, 1).
        num_resamples (`int`, *optional*, defaults to 4000):
            Number of bootstrap resamples.
        seed (`int`, *optional*, defaults to 0):
            Seed of the resamples.

    Returns:
        [`PairedDifference`]. "Not worse" by a margin means that `lower` exceeds `-margin`.

    Raises:
        ValueError: if the two do not have the same number of prompts, at least two.
    """
    first, second = (np.asarray(scores, dtype=float) for scores in (first, second))
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"`first` and `second` must score the same prompts, at least two, got {len(first)} and {len(second)}."
        )
    differences = first.reshape(len(first), -1).mean(axis=1) - second.reshape(len(second), -1).mean(axis=1)
    generator = np.random.default_rng(seed)
    means = np.array(
        [differences[generator.integers(len(differences), size=len(differences))].mean() for _ in range(num_resamples)]
    )
    lower, upper = np.quantile(means, [1 - confidence, confidence])
    return PairedDifference(float(differences.mean()), float(lower), float(upper), len(differences))
