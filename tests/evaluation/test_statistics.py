import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demask_hf.evaluation.statistics import (
    difference_p_value,
    empirical_bernstein,
    holm,
    mean_interval,
    paired_difference,
    ratio_of_means,
    share_interval,
)


def test_mean_difference_by_hand():
    result = paired_difference(np.array([1, 0, 1, 1]), np.array([0, 0, 1, 0]))
    assert result.mean == 0.5
    assert result.num_prompts == 4
    assert result.lower <= result.mean <= result.upper


def test_equal_scores_leave_no_doubt_unless_they_are_right_and_wrong():
    scores = np.array([0.0, 0.3, 1.0])
    result = paired_difference(scores, scores)
    assert (result.mean, result.lower, result.upper) == (0.0, 0.0, 0.0)
    # Without a difference on n prompts the bounds solve n d^2 = z^2 (1 - d) d, which is d = z^2 / (n + z^2).
    right = np.ones(200)
    result = paired_difference(right, right)
    bound = 1.6449**2 / (200 + 1.6449**2)
    assert (result.lower, result.upper) == pytest.approx((-bound, bound), rel=1e-4)


@pytest.mark.parametrize(
    ("num_wins", "num_losses", "num_prompts"), [(7, 2, 21), (3, 5, 1400), (0, 5, 40), (6, 0, 30), (20, 20, 40)]
)
def test_bounds_of_right_answers_are_where_the_score_test_rejects(num_wins, num_losses, num_prompts):
    optimize = pytest.importorskip("scipy.optimize")
    first, second = np.ones(num_prompts), np.ones(num_prompts)
    first[:num_losses] = 0
    second[num_losses : num_losses + num_wins] = 0

    def score(difference):
        # The share of losses that is most likely if the difference is true, found by search.
        def surprise(share):
            parts = [share + difference, share, 1 - 2 * share - difference]
            counts = [num_wins, num_losses, num_prompts - num_wins - num_losses]
            return -sum(count * np.log(max(part, 1e-300)) for count, part in zip(counts, parts, strict=True) if count)

        ends = (max(0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
        share = optimize.minimize_scalar(surprise, bounds=ends, method="bounded", options={"xatol": 1e-13}).x
        variance = num_prompts * (2 * share + difference * (1 - difference))
        return (num_wins - num_losses - num_prompts * difference) / variance**0.5

    found = paired_difference(first, second)
    assert score(found.lower) == pytest.approx(1.6449, abs=1e-3)
    assert score(found.upper) == pytest.approx(-1.6449, abs=1e-3)


def test_seeds_of_a_prompt_are_averaged_first():
    first = np.array([[1, 0, 1, 0], [1, 1, 1, 1]])
    second = np.array([[0, 0], [1, 0]])
    averaged = paired_difference(np.array([0.5, 1.0]), np.array([0.0, 0.5]))
    assert paired_difference(first, second) == averaged
    assert averaged.mean == 0.5


def test_bounds_are_those_of_the_normal_approximation():
    generator = np.random.default_rng(1)
    differences = generator.normal(0.2, 1.0, size=400)
    result = paired_difference(differences, np.zeros(400))
    error = differences.std() / 400**0.5
    assert result.lower == pytest.approx(differences.mean() - 1.645 * error, abs=0.01)
    assert result.upper == pytest.approx(differences.mean() + 1.645 * error, abs=0.01)


def test_intervals_are_the_percentile_bootstrap_without_its_noise():
    stats = pytest.importorskip("scipy.stats")
    first, second = np.random.default_rng(2).integers(1, 20, size=(2, 60)).astype(float)
    settings = {"n_resamples": 20_000, "method": "percentile", "vectorized": True, "batch": 2_000}
    difference = stats.bootstrap(
        (first - second,), np.mean, confidence_level=0.9, rng=np.random.default_rng(0), **settings
    ).confidence_interval
    found = paired_difference(first, second)
    assert (found.lower, found.upper) == pytest.approx((difference.low, difference.high), abs=0.05)


def test_bootstrap_of_two_prompts_by_hand():
    # Means of two draws from {0, 0.5}: 0, 0.25 and 0.5 with chances 1/4, 1/2, 1/4.
    found = paired_difference(np.array([0.0, 0.5]), np.zeros(2), confidence=0.8)
    assert (found.lower, found.upper) == (0.0, 0.5)
    found = paired_difference(np.array([0.0, 0.5]), np.zeros(2), confidence=0.7)
    assert (found.lower, found.upper) == (0.25, 0.25)


def test_interval_of_a_ratio_is_that_of_the_bootstrap_for_many_prompts():
    stats = pytest.importorskip("scipy.stats")
    first, second = np.random.default_rng(2).integers(1, 20, size=(2, 400)).astype(float)
    ratio = stats.bootstrap(
        (first, second),
        lambda above, below, axis: above.mean(axis=axis) / below.mean(axis=axis),
        paired=True,
        n_resamples=4_000,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = ratio_of_means(first, second)
    assert (found.lower, found.upper) == pytest.approx((ratio.low, ratio.high), abs=0.01)


def test_a_ratio_to_costs_that_may_be_zero_has_no_upper_end():
    found = ratio_of_means(np.array([1.0, 2.0]), np.array([0.0, 1.0]))
    assert (found.value, found.lower, found.upper) == (3.0, 0.0, float("inf"))


def test_more_confidence_gives_wider_bounds():
    scores = np.random.default_rng(0).random(50)
    narrow, wide = (paired_difference(scores, np.zeros(50), confidence=level) for level in (0.8, 0.99))
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


@pytest.mark.parametrize(("first", "second"), [([1, 2], [1, 2, 3]), ([1], [1]), ([], [])])
def test_scores_of_other_prompts_are_refused(first, second):
    with pytest.raises(ValueError, match="`first` and `second` must score the same prompts, at least two, got"):
        paired_difference(np.array(first), np.array(second))


def test_a_ratio_has_the_ratio_of_the_means_inside_its_interval():
    generator = np.random.default_rng(0)
    slow, fast = generator.integers(20, 30, 300), generator.integers(3, 6, (300, 5))
    result = ratio_of_means(slow, fast)
    assert result.value == pytest.approx(slow.mean() / fast.mean())
    assert result.lower < result.value < result.upper
    assert result.upper - result.lower < 0.3


def test_costs_in_proportion_leave_no_doubt_about_their_ratio():
    costs = np.array([3.0, 5.0, 11.0])
    result = ratio_of_means(4 * costs, costs)
    assert (result.value, result.lower, result.upper) == pytest.approx((4, 4, 4))


@pytest.mark.parametrize(
    ("num_first", "num_second", "expected"),
    # Two-sided binomial probabilities: 2 / 2^5; 2 * (1 + 6) / 2^6; and never more than 1.
    [(5, 0, 0.0625), (1, 5, 0.21875), (2, 2, 1.0), (1, 0, 1.0), (0, 0, 1.0)],
)
def test_one_run_each_is_compared_exactly(num_first, num_second, expected):
    first = np.array([1] * num_first + [0] * num_second + [1, 0, 1])
    second = np.array([0] * num_first + [1] * num_second + [1, 0, 1])
    assert difference_p_value(first, second) == pytest.approx(expected)


def test_several_seeds_are_compared_by_permuting_signs():
    # Four prompts, all better by a half: 2 of the 16 ways to choose signs are as extreme.
    first, second = np.ones((4, 2)), np.tile([0, 1], (4, 1))
    assert difference_p_value(first, second) == pytest.approx(2 / 16)
    assert difference_p_value(first[:1].repeat(2, axis=0), np.array([[0, 1], [1, 1]])) == 1.0


def test_p_values_have_no_floor():
    assert difference_p_value(np.ones((100, 2)), np.tile([0, 1], (100, 1))) == pytest.approx(2 * 0.5**100)


def test_p_values_of_other_scores_are_refused():
    with pytest.raises(
        ValueError, match="`first` and `second` must hold right \\(1\\) and wrong \\(0\\) answers, got"
    ):
        difference_p_value(np.array([0.5, 1.0]), np.array([0.0, 1.0]))


def test_p_values_of_equal_methods_are_spread_evenly():
    generator = np.random.default_rng(5)
    runs = (generator.random((2, 60, 3)) < 0.7 for _ in range(200))
    p_values = np.array([difference_p_value(*run) for run in runs])
    # 5 % of 200 is 10, with a standard deviation of 3.
    assert 2 <= (p_values <= 0.05).sum() <= 20
    assert 0.4 < p_values.mean() < 0.6


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_order_and_lies_between_no_correction_and_bonferroni(p_values):
    corrected = holm(p_values)
    for before, after in zip(p_values, corrected, strict=True):
        assert before <= after <= min(1.0, len(p_values) * max(p_values))
    pairs = sorted(zip(p_values, corrected, strict=True))
    assert all(first[1] <= second[1] for first, second in zip(pairs, pairs[1:], strict=False))


def test_share_interval_is_clopper_pearson():
    # Nothing among n: the upper end solves (1 - p)^n = 0.025.
    found = share_interval(0, 10)
    assert (found.value, found.lower) == (0.0, 0.0)
    assert found.upper == pytest.approx(1 - 0.025**0.1)
    assert share_interval(10, 10).lower == pytest.approx(0.025**0.1)
    half = share_interval(5, 10)
    assert half.lower == pytest.approx(1 - half.upper)


def test_mean_interval_is_that_of_the_normal_approximation():
    values = np.random.default_rng(1).normal(0.2, 1.0, size=400)
    found = mean_interval(values)
    assert found.value == pytest.approx(values.mean())
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    one = mean_interval(np.array([0.5]))
    assert (one.value, one.lower, one.upper) == (0.5, 0.5, 0.5)


def test_empirical_bernstein_by_hand():
    # Variance 1/3 of two zeros and two ones, n = 4, ln(4 / 0.05).
    log_term = np.log(80)
    width = np.sqrt(2 / 3 * log_term / 4) + 7 * log_term / 9
    found = empirical_bernstein(np.array([0, 1, 0, 1]))
    assert width > 0.5
    assert (found.value, found.lower, found.upper) == (0.5, 0.0, 1.0)
    found = empirical_bernstein(np.full(1001, 0.5))
    assert found.upper - 0.5 == pytest.approx(7 * log_term / 3000)


def test_empirical_bernstein_covers_the_expectation():
    generator = np.random.default_rng(0)
    found = [empirical_bernstein(generator.beta(0.5, 4.5, 100), 0.9) for _ in range(500)]
    assert sum(one.lower <= 0.1 <= one.upper for one in found) >= 450


def test_empirical_bernstein_needs_two_draws():
    with pytest.raises(ValueError, match="`values` must hold at least two draws, got 1"):
        empirical_bernstein(np.array([0.5]))
