"""Paired comparisons of decoding settings on the same prompts.

No interval depends on a seed: those of right answers are score intervals, those of other means exact quantiles of the
bootstrap over prompts. Exact shares need scipy (`pip install demask-hf[eval]`), everything else numpy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from statistics import NormalDist

import numpy as np


# Values that are no multiples of a common step up to this fineness of their range are rounded to it.
_FINENESS = 1024
# Halvings of [-1, 1] until the ends of an interval are exact to rounding.
_NUM_HALVINGS = 60


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of two methods over prompts, with its bounds.

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


def paired_difference(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> PairedDifference:
    """Return the mean difference over prompts with one-sided bounds.

    Right and wrong answers of one run each have the score interval for paired proportions (Tango, Statistics in
    Medicine 17, 1998): unlike a bootstrap, it leaves doubt where the two agree on every prompt. Other scores have the
    quantiles of the bootstrap over prompts, computed exactly. Scores of several seeds are averaged within each prompt
    first: seeds of one prompt are not independent.

    Args:
        first (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            Scores of one method.
        second (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            Scores of the other on the same prompts in the same order.
        confidence (`float`, *optional*, defaults to 0.95):
            One-sided confidence of each bound, in (0.5, 1).

    Returns:
        [`PairedDifference`]. "Not worse" by a margin means that `lower` exceeds `-margin`.

    Raises:
        ValueError: if the two do not have the same number of prompts, at least two.

    Example:

    Three prompts that only the first method gets right, five that only the second does, and 1,392 others:

    ```python
    >>> first, second = np.ones(1400), np.ones(1400)
    >>> first[:5] = 0
    >>> second[5:8] = 0
    >>> round(100 * paired_difference(first, second).lower, 2)
    -0.54

    ```
    """
    means = _prompt_means(first, second)
    differences = np.subtract(*means)
    if np.isin(means, (0, 1)).all():
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        lower, upper = _score_bounds(wins, losses, len(differences), confidence)
    else:
        lower, upper = _bootstrap_quantiles(differences, (1 - confidence, confidence))
    return PairedDifference(float(differences.mean()), lower, upper, len(differences))


def ratio_of_means(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return mean(first) / mean(second) with Fieller's interval over prompts, such as a speed-up in forward passes.

    The interval holds the ratios `r` for which the mean of `first - r * second` is within `z` standard errors of 0
    (Fieller, Journal of the Royal Statistical Society B 16, 1954), `z` being the normal quantile.

    Args:
        first (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            Positive costs of one method.
        second (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            Positive costs of the other on the same prompts in the same order.
        confidence (`float`, *optional*, defaults to 0.95):
            Two-sided confidence, in (0, 1).

    Returns:
        [`Interval`]; its upper end is infinite where the costs in `second` vary too much.

    Raises:
        ValueError: if the two do not have the same number of prompts, at least two.
    """
    above, below = _prompt_means(first, second)
    spread = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 * np.cov(above, below) / len(above)
    # (a - r b)^2 <= V_aa - 2 r V_ab + r^2 V_bb, a quadratic inequality in r.
    square = below.mean() ** 2 - spread[1, 1]
    middle = above.mean() * below.mean() - spread[0, 1]
    constant = above.mean() ** 2 - spread[0, 0]
    value = float(above.mean() / below.mean())
    if square <= 0:
        return Interval(value, 0.0, float("inf"))
    root = max(middle**2 - square * constant, 0.0) ** 0.5
    return Interval(value, float((middle - root) / square), float((middle + root) / square))


def difference_p_value(first: np.ndarray, second: np.ndarray) -> float:
    """Return the two-sided p-value of "both are right equally often" for the same prompts.

    Under the hypothesis, the difference of each prompt has either sign equally often. All choices of signs are
    counted; with one run each this is McNemar's exact test. Several seeds are averaged within each prompt first.

    Args:
        first (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            Whether each answer of one method is right.
        second (`np.ndarray` of shape `(prompts,)` or `(prompts, seeds)`):
            The same of the other.

    Raises:
        ValueError: if the two do not have the same number of prompts, at least two, or a score is neither 0 nor 1.
    """
    if not (np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()):
        raise ValueError("`first` and `second` must hold right (1) and wrong (0) answers, got another score.")
    steps, _ = _on_lattice(np.subtract(*_prompt_means(first, second)))
    sizes, observed = np.abs(steps[steps != 0]), abs(int(steps.sum()))
    # Probabilities of each sum of signed differences, from -total to total.
    total = int(sizes.sum())
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for size in sizes:
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    return min(1.0, float(chances[np.abs(np.arange(-total, total + 1)) >= observed].sum()))


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


def mean_interval(values: np.ndarray | Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean over prompts with the exact quantiles of its bootstrap over prompts.

    Args:
        values (`np.ndarray` of shape `(prompts,)`, or `Sequence[float]`):
            One value per prompt, at least one.
        confidence (`float`, *optional*, defaults to 0.95):
            Two-sided confidence, in (0, 1).
    """
    known = np.asarray(values, dtype=float)
    lower, upper = _bootstrap_quantiles(known, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(float(known.mean()), lower, upper)


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


def _score_bounds(num_wins: int, num_losses: int, num_prompts: int, confidence: float) -> tuple[float, float]:
    """Return the bounds of Tango's score interval of (wins - losses) / prompts.

    The score of a difference `d` is `(wins - losses - n d) / sqrt(n (2 q + d (1 - d)))`, where `q` is the most likely
    share of losses given `d`. It falls with `d`.
    """

    def score(difference: float) -> float:
        linear = -num_wins - num_losses + (2 * num_prompts - num_wins + num_losses) * difference
        constant = -num_losses * difference * (1 - difference)
        share = (max(linear**2 - 8 * num_prompts * constant, 0.0) ** 0.5 - linear) / (4 * num_prompts)
        variance = num_prompts * (2 * share + difference * (1 - difference))
        return (num_wins - num_losses - num_prompts * difference) / max(variance, 1e-300) ** 0.5

    def solved(target: float) -> float:
        low, high = -1.0, 1.0
        for _ in range(_NUM_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > target else (low, middle)
        return low

    limit = NormalDist().inv_cdf(confidence)
    return solved(limit), solved(-limit)


def _on_lattice(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return values as whole multiples of a common step, and that step; the finest one rounds them."""
    fractions = [Fraction(value).limit_denominator(_FINENESS) for value in np.unique(values)]
    denominator = lcm(*(fraction.denominator for fraction in fractions))
    spread = float(values.max() - values.min())
    step = 1 / denominator
    if spread > _FINENESS * step or not np.allclose(np.unique(values), [float(one) for one in fractions], atol=1e-9):
        step = (spread or 1.0) / _FINENESS
    return np.rint(values / step).astype(int), step


def _bootstrap_quantiles(values: np.ndarray, shares: tuple[float, float]) -> tuple[float, float]:
    """Return quantiles of the mean of a resample of the values, of the distribution itself and not of draws from it.

    On a lattice, the sum of `n` draws has the `n`-fold convolution of the distribution of one, which is a power of its
    Fourier transform.
    """
    steps, step = _on_lattice(values)
    size, lowest = len(values), int(steps.min())
    counts = np.bincount(steps - lowest)
    length = size * (len(counts) - 1) + 1
    # A power of two is fast; the sum itself needs no more than its length.
    padded = 1 << length.bit_length()
    chances = np.fft.irfft(np.fft.rfft(counts / size, padded) ** size, padded)[:length]
    # Rounding errors must not move a quantile that lies on a point.
    reached = np.cumsum(chances)
    lower, upper = (int(np.argmax(reached >= share - 1e-12)) for share in shares)
    return (lower / size + lowest) * step, (upper / size + lowest) * step
