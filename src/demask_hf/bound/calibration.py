"""Choose the dependency bound with a guarantee on a measured loss: learn then test, without any assumption."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..validation import check_choice, check_interval


TESTS = ("fixed-sequence", "bonferroni")


@dataclass(frozen=True)
class TestedBound:
    """A tested candidate for the bound.

    Args:
        dependency_bound (`float`): The candidate.
        mean_loss (`float`): Mean loss of the calibration prompts, in [0, 1].
        p_value (`float`): P-value of "the expected loss is above epsilon".
        is_certified (`bool`): Whether this hypothesis was rejected.
    """

    dependency_bound: float
    mean_loss: float
    p_value: float
    is_certified: bool


@dataclass(frozen=True)
class Calibration:
    """The outcome of a calibration.

    Args:
        epsilon (`float`): Limit of the expected loss.
        delta (`float`): Probability, over the calibration draw, that a certified bound exceeds it.
        test (`str`): Procedure that corrects for the number of candidates.
        num_prompts (`int`): Calibration prompts.
        tested (`tuple[TestedBound, ...]`): The tested candidates, safest first.
    """

    epsilon: float
    delta: float
    test: str
    num_prompts: int
    tested: tuple[TestedBound, ...]

    @property
    def chosen(self) -> TestedBound | None:
        """The largest certified bound, `None` if there is none."""
        certified = [one for one in self.tested if one.is_certified]
        return max(certified, key=lambda one: one.dependency_bound, default=None)


def hoeffding_bentkus(losses: np.ndarray, epsilon: float) -> float:
    """Return a p-value of "the expected loss is above epsilon" that is valid for every number of prompts.

    The smaller of Hoeffding's `exp(-n h(min(mean, epsilon), epsilon))`, h being the relative entropy of two coins,
    and Bentkus' `e P(Binomial(n, epsilon) <= ceil(n mean))` (learn then test, arXiv 2110.01052).

    Args:
        losses (`np.ndarray` of shape `(prompts,)`):
            Independent losses in [0, 1], at least one.
        epsilon (`float`):
            In (0, 1).

    Returns:
        `float` in (0, 1].

    Raises:
        ValueError: if there is no loss, or one is outside [0, 1].
    """
    losses = np.asarray(losses, dtype=float)
    if losses.size == 0 or not ((losses >= 0) & (losses <= 1)).all():
        raise ValueError(f"`losses` must be at least one number in [0, 1], got {losses.tolist()[:3]}.")
    mean, num_prompts = float(losses.mean()), losses.size
    low = min(mean, epsilon)
    relative_entropy = (1 - low) * math.log((1 - low) / (1 - epsilon)) + (low and low * math.log(low / epsilon))
    # Rounding of the sum must not count as another loss.
    num_losses = math.ceil(round(float(losses.sum()), 9))
    bentkus = math.e * float(stats.binom.cdf(num_losses, num_prompts, epsilon))
    return min(1.0, math.exp(-num_prompts * relative_entropy), bentkus)


def calibrate(
    roll_out: Callable[[float], np.ndarray],
    bounds: Sequence[float],
    epsilon: float = 0.05,
    delta: float = 0.1,
    test: str = "fixed-sequence",
) -> Calibration:
    """Test candidates for the bound so that with probability `1 - delta` no certified one has a larger expected loss.

    Args:
        roll_out (`Callable[[float], np.ndarray]`):
            Decodes the calibration prompts with a bound and returns one loss in [0, 1] per prompt. Prompts must be
            independent draws from the intended use; states of one prompt are not independent observations.
        bounds (`Sequence[float]`):
            Candidates, fixed before any loss is seen.
        epsilon (`float`, *optional*, defaults to 0.05):
            Limit of the expected loss, in (0, 1).
        delta (`float`, *optional*, defaults to 0.1):
            Probability of an error over the calibration draw, in (0, 1).
        test (`str`, *optional*, defaults to `"fixed-sequence"`):
            "fixed-sequence" tests from the smallest bound up, each at level `delta`, and stops at the first that is
            not certified; larger ones are not rolled out. "bonferroni" tests all at level `delta / candidates`.

    Returns:
        [`Calibration`]

    Raises:
        ValueError: if an argument is outside its range.
    """
    check_calibration(bounds, epsilon, delta, test)
    level = delta if test == "fixed-sequence" else delta / len(bounds)
    tested, num_prompts = [], 0
    for bound in sorted(bounds):
        losses = np.asarray(roll_out(bound), dtype=float)
        p_value, num_prompts = hoeffding_bentkus(losses, epsilon), losses.size
        tested.append(TestedBound(bound, float(losses.mean()), p_value, p_value <= level))
        if test == "fixed-sequence" and p_value > level:
            break
    return Calibration(epsilon, delta, test, num_prompts, tuple(tested))


def check_calibration(bounds: Sequence[float], epsilon: float, delta: float, test: str) -> None:
    """Raise a `ValueError` if an argument of [`calibrate`] is outside its range."""
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        check_interval(name, value, 0, 1, open_low=True, open_high=True)
    check_choice("test", test, TESTS)
    if not bounds or not all(bound >= 0 for bound in bounds) or len(set(bounds)) != len(bounds):
        raise ValueError(f"`bounds` must be different numbers of at least 0, got {list(bounds)}.")
