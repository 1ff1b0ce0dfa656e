"""From records to what is reported: counts of a setting, its paired comparison, and the choice of limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .metrics import (
    accuracy_under_parallelism,
    answer_distance,
    finalization_parallelism,
    num_distinct_valid,
    order_correlation,
)
from .records import Record
from .specs import Setting
from .statistics import Interval, PairedDifference, difference_p_value, holm, paired_difference, ratio_of_means


# Bounds lie on lattices, where rounding must not decide.
_ROUNDING = 1e-9
# Placeholder for records without a known setting.
UNNAMED = Setting("", "", {})


@dataclass(frozen=True)
class Outcome:
    """The results of a setting; every array has the shape `(prompts, seeds)`.

    Args:
        setting ([`Setting`]): The setting.
        family (`np.ndarray` of shape `(prompts,)`): Task of each prompt.
        prompt (`np.ndarray` of shape `(prompts,)`): The prompts.
        is_correct (`np.ndarray`): Whether the answer is right.
        num_forward_passes (`np.ndarray`): Backbone forwards.
        num_probe_passes (`np.ndarray`): Forwards for measuring dependencies, not included in `num_forward_passes`.
        num_tokens (`np.ndarray`): Tokens written, up to and including the first end of sequence.
        parallelism (`np.ndarray`): Tokens per step that wrote any (AFP).
        left_to_right (`np.ndarray`): Kendall's tau-b between position and step; NaN with one step.
        answers (`np.ndarray`): The texts.
        seconds (`np.ndarray`): Wall-clock time.
        num_row_forwards (`np.ndarray`): Versions of the rows that the forwards computed, drafts included.
    """

    setting: Setting
    family: np.ndarray
    prompt: np.ndarray
    is_correct: np.ndarray
    num_forward_passes: np.ndarray
    num_probe_passes: np.ndarray
    num_tokens: np.ndarray
    parallelism: np.ndarray
    left_to_right: np.ndarray
    answers: np.ndarray
    seconds: np.ndarray
    num_row_forwards: np.ndarray

    @classmethod
    def of(cls, setting: Setting, records: Sequence[Sequence[Record]]) -> "Outcome":
        """Read records by prompt and seed, as [`Run.records`] returns them.

        Raises:
            ValueError: if there are none.
        """
        if not records:
            raise ValueError("`records` must hold at least one record, got none.")

        def table(fact: Any) -> np.ndarray:
            return np.array([[fact(record) for record in row] for row in records])

        return cls(
            setting,
            np.array([row[0].family for row in records]),
            np.array([row[0].prompt for row in records]),
            table(lambda record: record.is_correct),
            table(lambda record: record.num_forward_passes),
            table(lambda record: record.num_probe_passes),
            table(lambda record: record.num_tokens),
            table(lambda record: finalization_parallelism(record.unmask_steps)),
            table(lambda record: order_correlation(record.unmask_steps).tau_b),
            table(lambda record: record.answer),
            table(lambda record: record.seconds),
            table(lambda record: record.num_row_forwards),
        )

    @classmethod
    def of_records(cls, records: Sequence[Record], setting: Setting = UNNAMED) -> "Outcome":
        """Read one record for each prompt, as [`~evaluation.evaluate`] returns them.

        Args:
            records (`Sequence[Record]`):
                The records.
            setting ([`Setting`], *optional*):
                How they were decoded; by default one without a name.

        Raises:
            ValueError: if there are none.
        """
        return cls.of(setting, [[record] for record in records])

    def only(self, families: Sequence[str]) -> "Outcome":
        """Return the outcome on the prompts of some tasks."""
        is_kept = np.isin(self.family, families)
        arrays = {name: value[is_kept] for name, value in vars(self).items() if name != "setting"}
        return Outcome(self.setting, **arrays)

    @property
    def num_prompts(self) -> int:
        """Number of different prompts."""
        return len(self.family)

    @property
    def accuracy(self) -> float:
        """Share of right answers, in [0, 1]."""
        return float(self.is_correct.mean())

    @property
    def mean_forward_passes(self) -> float:
        """Forward passes per prompt."""
        return float(self.num_forward_passes.mean())

    @property
    def tokens_per_forward(self) -> float:
        """Number of all written tokens divided by the number of all forward passes."""
        return float(self.num_tokens.sum() / max(self.num_forward_passes.sum(), 1))

    def summary(self) -> dict[str, float]:
        """Return means over prompts and seeds; `accuracy_sd` is the standard deviation of the seeds' accuracies."""
        by_seed = self.is_correct.mean(axis=0)
        return {
            "num_prompts": self.num_prompts,
            "num_seeds": self.is_correct.shape[1],
            "accuracy": self.accuracy,
            "accuracy_sd": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan"),
            "mean_forward_passes": self.mean_forward_passes,
            "mean_row_forwards": float(self.num_row_forwards.mean()),
            "mean_probe_passes": float(self.num_probe_passes.mean()),
            "tokens_per_forward": self.tokens_per_forward,
            "average_finalization_parallelism": _mean(self.parallelism),
            "left_to_right": _mean(self.left_to_right),
            "mean_seconds": float(self.seconds.mean()),
            "tokens_per_second": float(self.num_tokens.sum() / max(self.seconds.sum(), 1e-9)),
        }

    def order_by_verdict(self) -> dict[str, dict[str, float]]:
        """Return AFP and tau-b of right and of wrong answers."""
        kinds = {"right": self.is_correct, "wrong": ~self.is_correct}
        return {
            name: {
                "num_answers": int(is_kind.sum()),
                "average_finalization_parallelism": _mean(self.parallelism[is_kind]),
                "left_to_right": _mean(self.left_to_right[is_kind]),
            }
            for name, is_kind in kinds.items()
        }

    def diversity(self, reference: "Outcome") -> dict[str, float]:
        """Return different right answers per prompt, and the distance of the answers to those of a reference.

        The distance is the mean over prompts of [`~metrics.answer_distance`]; `expected_distance` is what two
        samples of the reference have by chance. Needs at least two seeds.

        Args:
            reference ([`Outcome`]):
                What to compare with, on the same prompts.
        """
        rows = zip(self.answers.tolist(), reference.answers.tolist(), self.is_correct.tolist(), strict=True)
        found = [(answer_distance(own, other, 10), num_distinct_valid(own, valid)) for own, other, valid in rows]
        return {
            "mean_distinct_valid": _mean(np.array([count for _, count in found])),
            "distance": _mean(np.array([distance.distance for distance, _ in found])),
            "expected_distance": _mean(np.array([distance.reference_distance for distance, _ in found])),
        }


def _mean(values: np.ndarray) -> float:
    """Return the mean of the known values, or NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


@dataclass(frozen=True)
class Comparison:
    """A setting compared with one token per forward pass, with the same order and draws, on the same prompts.

    Args:
        outcome ([`Outcome`]): The setting.
        reference ([`Outcome`]): One token per forward pass.
        difference ([`PairedDifference`]): Of the accuracies, setting minus reference, one-sided 95 % bounds.
        families (`dict[str, PairedDifference]`): The same on the prompts of each task.
        speed_up ([`Interval`]): Forward passes of the reference divided by those of the setting, with a 95 % interval.
        p_value (`float`): Of equal accuracies, corrected for the number of comparisons (Holm).
    """

    outcome: Outcome
    reference: Outcome
    difference: PairedDifference
    families: dict[str, PairedDifference]
    speed_up: Interval
    p_value: float

    @property
    def is_reference(self) -> bool:
        """Whether the setting is its own reference, so that there is nothing to compare."""
        return self.outcome.setting.decodes_like(self.reference.setting)

    def is_matched(self, margin: float) -> bool:
        """Whether the accuracy is shown to be less than `margin` below that of the reference; a tie shows nothing."""
        return self.difference.lower > -margin + _ROUNDING


def compare(outcomes: Sequence[Outcome], references: Sequence[Outcome]) -> list[Comparison]:
    """Compare each outcome with its reference.

    Args:
        outcomes (`Sequence[Outcome]`):
            The settings of one table.
        references (`Sequence[Outcome]`):
            The outcome that each one is compared with, on the same prompts.

    Raises:
        ValueError: if two of a pair have different prompts.
    """
    pairs = list(zip(outcomes, references, strict=True))
    p_values = [difference_p_value(first.is_correct, second.is_correct) for first, second in pairs]
    # A setting that is its own reference does not count as a comparison.
    is_other = [not first.setting.decodes_like(second.setting) for first, second in pairs]
    corrected = iter(holm([value for value, other in zip(p_values, is_other, strict=True) if other]))
    return [
        Comparison(
            first,
            second,
            paired_difference(first.is_correct, second.is_correct),
            _by_family(first, second),
            ratio_of_means(second.num_forward_passes, first.num_forward_passes),
            next(corrected) if other else 1.0,
        )
        for (first, second), other in zip(pairs, is_other, strict=True)
    ]


def _by_family(first: Outcome, second: Outcome) -> dict[str, PairedDifference]:
    """Return the difference on the prompts of each task that has at least two."""
    families = {family: first.family == family for family in sorted(set(first.family.tolist()))}
    return {
        family: paired_difference(first.is_correct[is_own], second.is_correct[is_own])
        for family, is_own in families.items()
        if is_own.sum() > 1
    }


def choose(outcomes: Sequence[Outcome], references: Sequence[Outcome], margin: float) -> int:
    """Return the index of the setting with the fewest passes that keeps the accuracy, else of the most accurate one.

    Args:
        outcomes (`Sequence[Outcome]`):
            The settings of one row, on validation prompts.
        references (`Sequence[Outcome]`):
            One token per forward pass with the same order, for each.
        margin (`float`):
            Allowed loss of mean accuracy against the reference.
    """

    def rank(index: int) -> tuple[bool, float]:
        outcome = outcomes[index]
        is_worse = outcome.accuracy < references[index].accuracy - margin
        return is_worse, -outcome.accuracy if is_worse else outcome.mean_forward_passes

    return min(range(len(outcomes)), key=rank)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, accuracy) that no other one beats in both, by ascending cost."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def sweeps(outcomes: Sequence[Outcome]) -> dict[str, dict[str, list[list[float]]]]:
    """Return tokens per pass and percent right of each setting, by task and row, in ascending order."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for outcome in outcomes:
        for family in sorted(set(outcome.family.tolist())):
            own = outcome.only([family])
            points = found.setdefault(family, {}).setdefault(outcome.setting.row, [])
            points.append([own.tokens_per_forward, 100 * own.accuracy])
            points.sort()
    return found


def mean_aup(tasks: dict[str, dict[str, list[list[float]]]]) -> dict[str, float]:
    """Return the mean over tasks of the accuracy under parallelism of each row, see [`sweeps`]."""
    found: dict[str, list[float]] = {}
    for rows in tasks.values():
        highest = max(accuracy for points in rows.values() for _, accuracy in points)
        for row, points in rows.items():
            found.setdefault(row, []).append(accuracy_under_parallelism(points, highest))
    return {row: sum(scores) / len(scores) for row, scores in found.items()}
