"""The order in which an answer was written: how many tokens at once, and how far from left to right.

Needs scipy (`pip install demask-hf[eval]`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class OrderCorrelation:
    """Kendall's rank correlation between the position of a token and the step that wrote it.

    1 is strictly from left to right, -1 from right to left. Tokens of one step are tied.

    Args:
        tau_b (`float`): (concordant - discordant) / sqrt(pairs * pairs of different steps), in [-1, 1]; NaN where all
            tokens were written in one step.
        tau_a (`float`): (concordant - discordant) / pairs, in [-1, 1]; NaN with fewer than two tokens.
    """

    tau_b: float
    tau_a: float


def finalization_parallelism(unmask_steps: Sequence[int]) -> float:
    """Return the average finalization parallelism (AFP, arXiv 2601.15593).

    AFP is the number of written tokens divided by the number of steps that wrote at least one of them.

    Args:
        unmask_steps (`Sequence[int]`):
            Step at which each position was written, from 0; -1 where nothing was, as in [`~evaluation.Decoding`].

    Returns:
        `float`: at least 1, or NaN if nothing was written.

    Example:

    ```python
    >>> finalization_parallelism([-1, 0, 0, 2, 0, 2, 3])
    2.0

    ```
    """
    written = [step for step in unmask_steps if step >= 0]
    return len(written) / len(set(written)) if written else float("nan")


def order_correlation(unmask_steps: Sequence[int]) -> OrderCorrelation:
    """Return how far an answer was written from left to right.

    Args:
        unmask_steps (`Sequence[int]`):
            Step at which each position was written, from 0; -1 where nothing was, as in [`~evaluation.Decoding`].

    Returns:
        [`OrderCorrelation`]

    Example:

    ```python
    >>> order_correlation([-1, 0, 1, 1]).tau_a
    0.6666666666666666

    ```
    """
    steps = np.array([step for step in unmask_steps if step >= 0])
    if len(steps) < 2:
        return OrderCorrelation(float("nan"), float("nan"))
    # Positions rise, so a pair is concordant where the steps rise, too.
    signs = np.sign(steps[None, :] - steps[:, None])[np.triu_indices(len(steps), k=1)]
    tau_b = stats.kendalltau(np.arange(len(steps)), steps, variant="b").statistic
    return OrderCorrelation(float(tau_b), float(signs.mean()))
