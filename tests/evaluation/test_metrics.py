import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demask_hf.evaluation.decoding import decode_prompts
from demask_hf.evaluation.metrics import (
    AnswerDistance,
    accuracy_under_parallelism,
    answer_distance,
    empirical_distance,
    finalization_parallelism,
    num_distinct_valid,
    order_correlation,
)


@pytest.mark.parametrize(
    ("points", "highest", "expected"),
    [
        ([(2.0, 50.0)], 50.0, 100.0),
        # Without a loss it is the area below the curve: 1 * 80 + 2 * 80 + 1 * 80.
        ([(1.0, 80.0), (3.0, 80.0), (4.0, 80.0)], 80.0, 320.0),
        # In any order; the first term has no weight, the others exp(-3 * (1 - 40 / 80)) at both ends.
        ([(3.0, 40.0), (1.0, 40.0)], 80.0, 40.0 + 2 * 40 * math.exp(-1.5)),
        # Weights 1 at 80 and exp(-3 * 4 / 80) at 76.
        ([(1.0, 80.0), (2.0, 76.0)], 80.0, 80.0 + (80 + 76 * math.exp(-0.15)) / 2),
        # 75 is 5 below the first and counts, 74.9 does not, and the trapezoid spans it.
        ([(1.0, 80.0), (2.0, 74.9), (3.0, 75.0)], 80.0, 80.0 + 2 * (80 + 75 * math.exp(-3 / 16)) / 2),
        ([(1.0, 80.0), (2.0, 74.9)], 80.0, 80.0),
        ([(1.0, 0.0), (2.0, 0.0)], 0.0, 0.0),
    ],
)
def test_accuracy_under_parallelism_by_hand(points, highest, expected):
    assert accuracy_under_parallelism(points, highest) == pytest.approx(expected, abs=1e-12)


def test_penalty_and_tolerance_of_the_accuracy_under_parallelism():
    points = [(1.0, 80.0), (2.0, 60.0)]
    assert accuracy_under_parallelism(points, 80.0, penalty=0.0, tolerance=20.0) == 150.0
    assert accuracy_under_parallelism(points, 100.0, penalty=1.0, tolerance=20.0) == pytest.approx(
        80 + (80 * math.exp(-0.2) + 60 * math.exp(-0.4)) / 2
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"points": []}, "`points` must hold at least one point, got none"),
        ({"points": [(-1.0, 50.0)]}, r"`points` must be a number in \[0, inf\), got -1\.0"),
        ({"points": [(1.0, 101.0)]}, r"`points` must be a number in \[0, 100\], got 101\.0"),
        ({"highest": 40.0}, r"`highest` must be a number in \[50\.0, 100\], got 40\.0"),
        ({"penalty": -1}, r"`penalty` must be a number in \[0, inf\], got -1"),
        ({"tolerance": -1}, r"`tolerance` must be a number in \[0, inf\], got -1"),
    ],
)
def test_wrong_points_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        accuracy_under_parallelism(**{"points": [(1.0, 50.0)], "highest": 60.0, **changed})


steps = st.lists(st.integers(-1, 6), min_size=2, max_size=12)
samples = st.lists(st.sampled_from("abcd"), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("unmask_steps", "expected"),
    [([0, 1, 2], 1.0), ([0, 0, 0, 0], 4.0), ([3, 0, 3, 1, 0, 3], 2.0), ([-1, 5, -1], 1.0), ([2, 0, 0, -1, 7], 4 / 3)],
)
def test_tokens_per_step_that_wrote_some(unmask_steps, expected):
    assert finalization_parallelism(unmask_steps) == expected


@pytest.mark.parametrize("unmask_steps", [[], [-1, -1]])
def test_nothing_was_written(unmask_steps):
    assert math.isnan(finalization_parallelism(unmask_steps))
    correlation = order_correlation(unmask_steps)
    assert math.isnan(correlation.tau_a)
    assert math.isnan(correlation.tau_b)


@pytest.mark.parametrize(
    ("unmask_steps", "concordant", "discordant", "tied"),
    [
        ([0, 1, 2, 3], 6, 0, 0),
        ([3, 2, 1, 0], 0, 6, 0),
        ([0, 0, 1, 1], 4, 0, 2),
        ([1, 0, 0, 2], 3, 2, 1),
        ([2, 0, 1, 0], 1, 4, 1),
        ([-1, 1, -1, 0, 2], 2, 1, 0),
    ],
)
def test_both_taus_by_hand(unmask_steps, concordant, discordant, tied):
    pairs = concordant + discordant + tied
    correlation = order_correlation(unmask_steps)
    assert correlation.tau_a == pytest.approx((concordant - discordant) / pairs)
    assert correlation.tau_b == pytest.approx((concordant - discordant) / math.sqrt(pairs * (pairs - tied)))


@given(steps)
def test_tau_b_is_that_of_scipy(unmask_steps):
    stats = pytest.importorskip("scipy.stats")
    written = [step for step in unmask_steps if step >= 0]
    if len(written) > 1:
        expected = stats.kendalltau(np.arange(len(written)), written, variant="b").statistic
        assert order_correlation(unmask_steps).tau_b == pytest.approx(expected, nan_ok=True)


def test_one_step_has_no_order():
    correlation = order_correlation([0, 0, 0])
    assert math.isnan(correlation.tau_b)
    assert correlation.tau_a == 0


@given(steps)
def test_tau_a_is_never_the_larger_one(unmask_steps):
    correlation = order_correlation(unmask_steps)
    if not math.isnan(correlation.tau_b):
        assert abs(correlation.tau_a) <= abs(correlation.tau_b) + 1e-12
        assert correlation.tau_a * correlation.tau_b >= 0


@given(steps)
def test_reading_backwards_changes_the_sign(unmask_steps):
    forth, back = order_correlation(unmask_steps), order_correlation(unmask_steps[::-1])
    assert back.tau_a == pytest.approx(-forth.tau_a, nan_ok=True)
    assert back.tau_b == pytest.approx(-forth.tau_b, nan_ok=True)


@given(steps)
def test_parallelism_depends_on_neither_order_nor_numbers(unmask_steps):
    renumbered = [3 * step + 1 if step >= 0 else step for step in reversed(unmask_steps)]
    expected = finalization_parallelism(unmask_steps)
    assert finalization_parallelism(renumbered) == pytest.approx(expected, nan_ok=True)


def test_decoding_from_left_to_right_has_a_tau_of_one(dream, tokenizer):
    rule = {"name": "sequential", "order": "left_to_right"}
    (decoding,) = decode_prompts(dream, tokenizer, ["w5 w6"], rule, max_new_tokens=5, stop_at_eos=False)
    correlation = order_correlation(decoding.unmask_steps)
    assert (correlation.tau_a, correlation.tau_b) == (1.0, pytest.approx(1.0))
    assert finalization_parallelism(decoding.unmask_steps) == 1.0


def test_only_valid_answers_count_and_each_once():
    assert num_distinct_valid(["a", "b", "a", "c", "d"], [True, True, True, False, True]) == 3
    assert num_distinct_valid(["a", "a"], [False, False]) == 0
    assert num_distinct_valid([], []) == 0


def test_verdicts_belong_to_answers():
    message = r"`is_valid` must judge each of the 2 answers, got 1 verdicts\."
    with pytest.raises(ValueError, match=message):
        num_distinct_valid(["a", "b"], [True])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("ab", "ba", 0), ("aa", "bb", 1), ("aabc", "abbb", 0.5), ("a", "ab", 0.5), ("aaab", "aabbccdd", 0.5)],
)
def test_distance_by_hand(first, second, expected):
    assert empirical_distance(first, second) == expected


@given(samples, samples, samples)
def test_distance_is_a_metric_between_distributions(first, second, third):
    distance = empirical_distance(first, second)
    assert 0 <= distance <= 1
    assert distance == pytest.approx(empirical_distance(second, first))
    assert empirical_distance(first * 3, first) == pytest.approx(0)
    assert distance <= empirical_distance(first, third) + empirical_distance(third, second) + 1e-12


def test_another_distribution_is_seen():
    assert answer_distance(["b"] * 6, ["a"] * 10) == AnswerDistance(1.0, 0.0, 5)
    assert answer_distance(["b"] * 6, ["a"] * 10).excess == 1.0


def test_the_same_answer_always_has_no_distance():
    assert answer_distance(["a"] * 3, ["a"] * 10) == AnswerDistance(0.0, 0.0, 3)


def test_answers_that_never_repeat_are_as_far_from_the_reference_as_it_is_from_itself():
    assert answer_distance(list("abcd"), list("efghijkl")) == AnswerDistance(1.0, 1.0, 4)


def test_all_samples_have_the_same_size():
    # Of two reference answers one is compared: equal to the other half never, to the single answer in half the splits.
    result = answer_distance(["a"] * 50, ["a", "b"], num_splits=4000)
    assert result.num_answers == 1
    assert result.reference_distance == 1.0
    assert result.distance == pytest.approx(0.5, abs=0.04)


def test_one_distribution_has_no_excess_on_average():
    random, excesses = Random(0), []
    for _ in range(300):
        answers, reference = (random.choices("abcdefgh", k=count) for count in (7, 24))
        result = answer_distance(answers, reference, num_splits=20)
        assert result.distance > 0
        excesses.append(result.excess)
    mean = sum(excesses) / len(excesses)
    spread = (sum((excess - mean) ** 2 for excess in excesses) / len(excesses) / (len(excesses) - 1)) ** 0.5
    assert abs(mean) < 3 * spread
    # The plain distance between samples of these sizes is far from 0.
    assert empirical_distance(answers, reference) > 0.1


def test_the_seed_decides_the_splits():
    answers, reference = list("aabbc"), list("aaabbbcccd")
    assert answer_distance(answers, reference, seed=3) == answer_distance(answers, reference, seed=3)
    assert answer_distance(answers, reference, seed=3) != answer_distance(answers, reference, seed=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: empirical_distance([], ["a"]), r"`first` must hold at least one answer, got none\."),
        (lambda: empirical_distance(["a"], []), r"`second` must hold at least one answer, got none\."),
        (lambda: answer_distance([], ["a", "b"]), r"`answers` must hold at least one answer, got none\."),
        (lambda: answer_distance(["a"], ["b"]), r"`reference` must hold at least two answers, got 1\."),
        (lambda: answer_distance(["a"], ["b", "c"], 0), r"`num_splits` must be an integer of at least 1, got 0\."),
    ],
)
def test_too_few_answers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
