"""Paired comparisons of decoding settings on the same prompts.

Intervals are percentile bootstraps over prompts and need numpy alone; the exact tests and shares need scipy
(`pip install demask-hf[eval]`).
"""

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided interval.

    Args:
        value (`float`): The estimate.
        lower (`float`): Lower end.
        upper (`float`): Upper end.
    """

    value: float
    lower: float
    upper: float


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
    differences = np.subtract(*_prompt_means(first, second))
    means = _resampled_means(differences[None], num_resamples, seed)[0]
    lower, upper = np.quantile(means, [1 - confidence, confidence])
    return PairedDifference(float(differences.mean()), float(lower), float(upper), len(differences))


def ratio_of_means(
    first: np.ndarray, second: np.ndarray, confidence: float = 0.95, num_resamples: int = 4_000, seed: int = 0
) -> Interval:
    """Return mean(first) / mean(second) with a bootstrap interval over prompts, such as a speed-up in forwards.

    Args:
        first (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            Positive costs of one method.
        second (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            Positive costs of the other on the same prompts in the same order.
        confidence (`float`, *optional*, defaults to 0.95):
            Two-sided confidence, in (0, 1).
        num_resamples (`int`, *optional*, defaults to 4000):
            Number of bootstrap resamples.
        seed (`int`, *optional*, defaults to 0):
            Seed of the resamples.

    Raises:
        ValueError: if the two do not have the same number of prompts, at least two.
    """
    costs = np.stack(_prompt_means(first, second))
    above, below = _resampled_means(costs, num_resamples, seed)
    lower, upper = np.quantile(above / below, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(costs[0].mean() / costs[1].mean()), float(lower), float(upper))


def difference_p_value(first: np.ndarray, second: np.ndarray, num_resamples: int = 9_999, seed: int = 0) -> float:
    """Return the two-sided p-value of "both are right equally often" for the same prompts.

    One run each is tested exactly (McNemar: among the prompts that only one of the two solves, both are equally likely
    to be that one). Several seeds are averaged within each prompt, and the signs of the differences are permuted.

    Args:
        first (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            Whether each answer of one method is right.
        second (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            The same of the other.
        num_resamples (`int`, *optional*, defaults to 9999):
            Number of random permutations.
        seed (`int`, *optional*, defaults to 0):
            Seed of the permutations.

    Raises:
        ValueError: if the two do not have the same number of prompts, at least two.
    """
    from scipy import stats

    differences = np.subtract(*_prompt_means(first, second))
    differences = differences[differences != 0]
    if differences.size < 2:
        # Both signs are equally likely.
        return 1.0
    if np.isin(differences, (-1, 1)).all():
        return float(stats.binomtest(int((differences > 0).sum()), differences.size).pvalue)
    test = stats.permutation_test(
        (differences,),
        lambda sample, axis: sample.mean(axis=axis),
        permutation_type="samples",
        n_resamples=num_resamples,
        vectorized=True,
        batch=200,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values, in the same order, corrected for their number by Holm's step-down rule.

    Args:
        p_values (`Sequence[float]`):
            P-values of the comparisons of one table, in [0, 1].
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def mean_interval(
    values: np.ndarray | Sequence[float], confidence: float = 0.95, num_resamples: int = 4_000, seed: int = 0
) -> Interval:
    """Return the mean over prompts with a bootstrap interval.

    Args:
        values (`np.ndarray` of shape `(prompts,)`, or `Sequence[float]`):
            One value per prompt, at least one.
        confidence (`float`, *optional*, defaults to 0.95):
            Two-sided confidence, in (0, 1).
        num_resamples (`int`, *optional*, defaults to 4000):
            Number of bootstrap resamples.
        seed (`int`, *optional*, defaults to 0):
            Seed of the resamples.
    """
    known = np.asarray(values, dtype=float)
    means = _resampled_means(known[None], num_resamples, seed)[0]
    lower, upper = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(known.mean()), float(lower), float(upper))


def share_interval(count: int, total: int, confidence: float = 0.95) -> Interval:
    """Return the share `count / total` of independent prompts with its exact binomial interval (Clopper-Pearson).

    Args:
        count (`int`):
            Number with the property.
        total (`int`):
            Total number, at least 1.
        confidence (`float`, *optional*, defaults to 0.95):
            Two-sided confidence, in (0, 1).
    """
    from scipy import stats

    found = stats.binomtest(count, total).proportion_ci(confidence)
    return Interval(count / total, float(found.low), float(found.high))


def empirical_bernstein(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the mean of independent draws in [0, 1] with an interval that holds at every sample size.

    `|mean - expectation| <= sqrt(2 V ln(4 / d) / n) + 7 ln(4 / d) / (3 (n - 1))` with probability `1 - d`, V being
    the sample variance (Maurer and Pontil, arXiv 0907.3740, both sides).

    Args:
        values (`np.ndarray` of shape `(draws,)`):
            At least two draws.
        confidence (`float`, *optional*, defaults to 0.95):
            Two-sided confidence `1 - d`, in (0, 1).

    Raises:
        ValueError: if there are fewer than two draws.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        raise ValueError(f"`values` must hold at least two draws, got {len(values)}.")
    log_term = np.log(4 / (1 - confidence))
    width = np.sqrt(2 * values.var(ddof=1) * log_term / len(values)) + 7 * log_term / (3 * (len(values) - 1))
    mean = float(values.mean())
    return Interval(mean, max(0.0, mean - float(width)), min(1.0, mean + float(width)))


def _prompt_means(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean score of each prompt for both methods, shape `(prompts,)`."""
    first, second = (np.asarray(scores, dtype=float) for scores in (first, second))
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"`first` and `second` must score the same prompts, at least two, got {len(first)} and {len(second)}."
        )
    return first.reshape(len(first), -1).mean(axis=1), second.reshape(len(second), -1).mean(axis=1)


def _resampled_means(scores: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Return the means of bootstrap resamples of the prompts, of shape `(methods, num_resamples)`."""
    generator, size = np.random.default_rng(seed), scores.shape[1]
    drawn = (generator.integers(size, size=size) for _ in range(num_resamples))
    return np.stack([scores[:, index].mean(axis=1) for index in drawn], axis=1)
