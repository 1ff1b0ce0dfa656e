from dataclasses import replace

import numpy as np
import pytest

from demask_hf.evaluation.comparison import Outcome, choose, compare, pareto_front
from demask_hf.evaluation.records import Record
from demask_hf.evaluation.specs import parse_settings


def _record(is_correct, passes, steps=(0, 1, 1), family="pairs"):
    return Record("p", "a", (3,) * len(steps), tuple(steps), passes, 0, 0.5, family, is_correct)


def _outcome(verdicts, passes, text="threshold", family="pairs"):
    (setting,) = parse_settings(text)
    return Outcome.of(setting, [[_record(verdict, passes, family=family)] for verdict in verdicts])


def _totals(num_tokens, num_forward_passes, is_correct):
    steps = tuple(range(num_tokens))
    return Record("", "", steps, steps, num_forward_passes, 2, 0.5, family="pairs", is_correct=is_correct)


def test_totals_by_hand():
    outcome = Outcome.of_records([_totals(8, 2, True), _totals(4, 4, False)])
    assert outcome.num_prompts == 2
    assert outcome.accuracy == 0.5
    assert outcome.mean_forward_passes == 3
    # All tokens over all forward passes, not the mean of the ratios.
    assert outcome.tokens_per_forward == 2
    assert outcome.num_probe_passes.sum() == 4
    assert outcome.seconds.sum() == 1


def test_nothing_cannot_be_summarised():
    with pytest.raises(ValueError, match=r"`records` must hold at least one record, got none\."):
        Outcome.of_records([])


def test_an_outcome_counts_by_hand():
    (setting,) = parse_settings("threshold")
    outcome = Outcome.of(
        setting,
        [
            [_record(True, 4, (0, 1, 1, 3)), _record(False, 2, (0, 0, 1, -1))],
            [_record(True, 3, (0, 1, 2), "lists"), _record(True, 3, (2, 2, 2), "lists")],
        ],
    )
    summary = outcome.summary()
    assert (summary["num_prompts"], summary["num_seeds"]) == (2, 2)
    assert summary["accuracy"] == 0.75
    # The seeds have 2 of 2 and 1 of 2 right.
    assert summary["accuracy_sd"] == pytest.approx(np.std([1, 0.5], ddof=1))
    assert summary["mean_forward_passes"] == 3
    # 4 + 3 + 3 + 3 tokens in 12 passes; 3, 2, 3 and 1 steps wrote one.
    assert summary["tokens_per_forward"] == pytest.approx(13 / 12)
    assert summary["average_finalization_parallelism"] == pytest.approx((4 / 3 + 3 / 2 + 1 + 3) / 4)
    wrong = outcome.order_by_verdict()["wrong"]
    assert (wrong["num_answers"], wrong["average_finalization_parallelism"]) == (1, 1.5)
    # Two pairs of the three rise, one is a tie: 2 / sqrt(3 * 2).
    assert wrong["left_to_right"] == pytest.approx(2 / 6**0.5)
    assert summary["tokens_per_second"] == pytest.approx(13 / 2)
    assert outcome.only(["lists"]).accuracy == 1.0
    assert outcome.only(["lists"]).mean_forward_passes == 3


def test_diversity_counts_right_answers_and_compares_with_chance():
    (setting,) = parse_settings("threshold")

    def outcome(*rows):
        return Outcome.of(setting, [[replace(_record(text != "x", 2), answer=text) for text in row] for row in rows])

    reference = outcome("aaaa", "bbcc")
    found = outcome("dabx", "bbbb").diversity(reference)
    assert found["mean_distinct_valid"] == (3 + 1) / 2
    assert outcome("aaaa").diversity(outcome("aaaa"))["distance"] == 0
    assert outcome("dddd").diversity(outcome("aaaa")) == {
        "mean_distinct_valid": 1.0,
        "distance": 1.0,
        "expected_distance": 0.0,
    }


def test_a_comparison_is_paired_and_corrected():
    reference = _outcome([True] * 40, 24, "sequential")
    worse = _outcome([False] * 6 + [True] * 34, 3)
    same = _outcome([True] * 40, 8, "klass")
    itself, first, second = compare([reference, worse, same], [reference] * 3)
    assert first.difference.mean == pytest.approx(-0.15)
    assert first.speed_up.value == pytest.approx(8)
    # McNemar: 6 against 0 is 2 / 2^6, times two comparisons; the reference itself is none.
    assert first.p_value == pytest.approx(2 * 2 / 64)
    assert (second.p_value, itself.p_value) == (1.0, 1.0)
    assert not first.is_matched(0.05)
    # Forty prompts without a difference leave a doubt of 6.3 points.
    assert not second.is_matched(0.06)
    assert second.is_matched(0.07)
    assert itself.speed_up.value == 1.0


def test_the_cheapest_setting_that_keeps_the_accuracy_is_chosen():
    reference = _outcome([True] * 10, 24, "sequential")
    outcomes = [
        _outcome([True] * right + [False] * (10 - right), passes) for right, passes in ((10, 9), (9, 5), (7, 2))
    ]
    assert choose(outcomes, [reference] * 3, margin=0.1) == 1
    assert choose(outcomes, [reference] * 3, margin=0.0) == 0
    assert choose(outcomes[1:], [reference] * 2, margin=0.0) == 0


def test_the_front_holds_what_nothing_beats():
    assert pareto_front([(3, 0.9), (1, 0.5), (2, 0.9), (4, 0.95), (1, 0.4)]) == [1, 2, 3]
    assert pareto_front([]) == []
