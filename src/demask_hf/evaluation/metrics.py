"""Metrics other than accuracy: accuracy under parallelism, the order of writing, and how much answers differ."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp
from random import Random

import numpy as np

from ..validation import check_count, check_interval


@dataclass(frozen=True)
class OrderCorrelation:
    """Kendall's rank correlation between the position of a token and the step that wrote it.

    1 means strictly from left to right, -1 from right to left. Tokens of one step are tied.

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
            Step at which each position was written, from 0; -1 for the others, as in [`~evaluation.Decoding`].

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
            Step at which each position was written, from 0; -1 for the others, as in [`~evaluation.Decoding`].

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
    # Positions increase, so a pair is concordant if the steps increase, too.
    signs = np.sign(steps[None, :] - steps[:, None])[np.triu_indices(len(steps), k=1)]
    num_untied = np.count_nonzero(signs)
    tau_b = signs.sum() / np.sqrt(signs.size * num_untied) if num_untied else float("nan")
    return OrderCorrelation(float(tau_b), float(signs.mean()))


def accuracy_under_parallelism(
    points: Sequence[Sequence[float]], highest: float, penalty: float = 3.0, tolerance: float = 5.0
) -> float:
    r"""Return the accuracy under parallelism (AUP) of d3LLM (arXiv 2601.07568) and its leaderboard.

    It is the area below accuracy `y` against tokens per forward pass `r` through the limits of one method on one task,
    where less accurate points weigh less. With `W(y) = min(exp(-penalty (1 - y / highest)), 1)` and the points in
    ascending order of `r`,

        AUP = r_1 y_1 + sum_i (r_i - r_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})) / 2

    Points more than `tolerance` below `y_1` are left out; the public code refuses a method whose fastest point is one.

    Args:
        points (`Sequence` of pairs):
            Tokens per forward pass, at least 0, and accuracy in percent, in [0, 100], of each limit.
        highest (`float`):
            The highest accuracy that any method reaches on the task, in percent, above 0; where none has a right
            answer, 0, and so is the result.
        penalty (`float`, *optional*, defaults to 3.0):
            Weight of lost accuracy, at least 0.
        tolerance (`float`, *optional*, defaults to 5.0):
            How far below the first point others count, in percent, at least 0.

    Raises:
        ValueError: if there is no point, or a number is outside its interval.

    Example:

    ```python
    >>> accuracy_under_parallelism([(1, 80.0), (3, 80.0), (5, 40.0)], highest=80.0)
    240.0

    ```
    """
    if not points:
        raise ValueError("`points` must hold at least one point, got none.")
    for parallelism, accuracy in points:
        check_interval("points", parallelism, 0)
        check_interval("points", accuracy, 0, 100)
    check_interval("highest", highest, max(accuracy for _, accuracy in points), 100)
    check_interval("penalty", penalty, 0, infinite=True)
    check_interval("tolerance", tolerance, 0, infinite=True)
    if not highest:
        return 0.0
    ordered = sorted(points, key=lambda point: point[0])
    start, first = ordered[0]
    kept = [(parallelism, accuracy) for parallelism, accuracy in ordered if accuracy >= first - tolerance]
    heights = [(at, own * min(exp(-penalty * (1 - own / highest)), 1.0)) for at, own in kept]
    area = sum((right - left) * (high + low) / 2 for (left, low), (right, high) in pairwise(heights))
    return float(start * first + area)


@dataclass(frozen=True)
class AnswerDistance:
    """Distance of sampled answers to a reference, and the part that sampling alone explains.

    Args:
        distance (`float`): Total variation between answers and reference, in [0, 1]; biased upward.
        reference_distance (`float`): The same between two halves of the reference, with the same bias.
        num_answers (`int`): Answers on each side of every comparison.
    """

    distance: float
    reference_distance: float
    num_answers: int

    @property
    def excess(self) -> float:
        """`distance - reference_distance`: 0 on average if both come from one distribution."""
        return self.distance - self.reference_distance


def num_distinct_valid(answers: Sequence[Hashable], is_valid: Sequence[bool]) -> int:
    """Return the number of different answers among the valid ones.

    Args:
        answers (`Sequence[Hashable]`):
            Answers to one prompt.
        is_valid (`Sequence[bool]`):
            Whether each is right.

    Raises:
        ValueError: if there are not as many verdicts as answers.
    """
    if len(answers) != len(is_valid):
        raise ValueError(f"`is_valid` must judge each of the {len(answers)} answers, got {len(is_valid)} verdicts.")
    return len({answer for answer, valid in zip(answers, is_valid, strict=True) if valid})


def empirical_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Return the total variation distance between two empirical distributions.

    As an estimate for the distributions behind the samples it is biased upward: two samples of one distribution have
    a positive distance, too. [`answer_distance`] measures this bias.

    Args:
        first (`Sequence[Hashable]`):
            Answers of one method to a prompt, or keys that stand for them.
        second (`Sequence[Hashable]`):
            Answers of another one to the same prompt.

    Returns:
        `float` in [0, 1].

    Raises:
        ValueError: if one of them is empty.

    Example:

    ```python
    >>> empirical_distance(["a", "a", "b", "c"], ["a", "b", "b", "b"])
    0.5

    ```
    """
    for name, sample in (("first", first), ("second", second)):
        if not sample:
            raise ValueError(f"`{name}` must hold at least one answer, got none.")
    counts, others = Counter(first), Counter(second)
    differences = (
        abs(counts[answer] / len(first) - others[answer] / len(second)) for answer in counts.keys() | others.keys()
    )
    return sum(differences) / 2


def answer_distance(
    answers: Sequence[Hashable], reference: Sequence[Hashable], num_splits: int = 100, seed: int = 0
) -> AnswerDistance:
    """Compare the answers of a method to one prompt with those of a reference, such as one-token decoding.

    The bias of a distance between samples depends on their sizes, so all samples are made equally large: in every
    split, the reference is divided into two random halves, and as many answers are drawn without replacement as a half
    contains (with fewer answers, the halves are reduced to their number). The distance between the answers and the
    first half is reported together with the distance between the two halves; if answers and reference come from one
    distribution, both have the same expectation.

    Args:
        answers (`Sequence[Hashable]`):
            Independent answers of the method, or keys that stand for them.
        reference (`Sequence[Hashable]`):
            Independent answers of the reference, at least two.
        num_splits (`int`, *optional*, defaults to 100):
            Number of splits to average over.
        seed (`int`, *optional*, defaults to 0):
            Seed of the splits.

    Returns:
        [`AnswerDistance`]: for one prompt; average over prompts, which are the independent units.

    Raises:
        ValueError: if there is no answer, the reference has fewer than two, or there is no split.
    """
    if not answers:
        raise ValueError("`answers` must hold at least one answer, got none.")
    if len(reference) < 2:
        raise ValueError(f"`reference` must hold at least two answers, got {len(reference)}.")
    check_count("num_splits", num_splits)
    random, size = Random(seed), min(len(answers), len(reference) // 2)
    distance = reference_distance = 0.0
    for _ in range(num_splits):
        halves = random.sample(reference, 2 * size)
        distance += empirical_distance(random.sample(answers, size), halves[:size])
        reference_distance += empirical_distance(halves[size:], halves[:size])
    return AnswerDistance(distance / num_splits, reference_distance / num_splits, size)
