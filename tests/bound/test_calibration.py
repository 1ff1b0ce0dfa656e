"""Learn then test: p-values, the two procedures, and whether the guarantee holds over many calibration draws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from demask_hf.bound.calibration import calibrate, hoeffding_bentkus


def _zeros_and_ones(num_losses, num_prompts):
    return np.array([1.0] * num_losses + [0.0] * (num_prompts - num_losses))


def test_p_values_by_hand():
    # No loss in 20 prompts: Hoeffding's bound is exactly (1 - epsilon)^n, Bentkus' e times that.
    assert hoeffding_bentkus(np.zeros(20), 0.1) == pytest.approx(0.9**20)
    # One loss in 10 at epsilon 1/2: the relative entropy of .1 and .5 is .1 ln .2 + .9 ln 1.8, Hoeffding is smaller.
    hoeffding = math.exp(-10 * (0.1 * math.log(0.2) + 0.9 * math.log(1.8)))
    assert hoeffding_bentkus(_zeros_and_ones(1, 10), 0.5) == pytest.approx(hoeffding)
    # 40 losses in 100: e P(Bin(100, 1/2) <= 40) is smaller.
    tail = sum(math.comb(100, count) for count in range(41)) / 2**100
    assert hoeffding_bentkus(_zeros_and_ones(40, 100), 0.5) == pytest.approx(math.e * tail)
    # Half a loss counts as a whole one for Bentkus, not for Hoeffding.
    hoeffding = math.exp(-10 * (0.05 * math.log(0.1) + 0.95 * math.log(1.9)))
    assert hoeffding_bentkus(np.array([0.5] + [0.0] * 9), 0.5) == pytest.approx(hoeffding)
    # A mean loss at or above the limit is no evidence at all.
    assert hoeffding_bentkus(_zeros_and_ones(5, 10), 0.5) == 1.0
    assert hoeffding_bentkus(np.ones(10), 0.5) == 1.0


@given(num_prompts=st.integers(1, 60), data=st.data(), epsilon=st.floats(0.01, 0.99), other=st.floats(0.01, 0.99))
def test_p_values_fall_with_fewer_losses_and_with_a_larger_limit(num_prompts, data, epsilon, other):
    few = data.draw(st.integers(0, num_prompts))
    many = data.draw(st.integers(few, num_prompts))
    low, high = (hoeffding_bentkus(_zeros_and_ones(count, num_prompts), epsilon) for count in (few, many))
    assert 0 < low <= high <= 1
    small, large = sorted((epsilon, other))
    losses = _zeros_and_ones(few, num_prompts)
    assert hoeffding_bentkus(losses, large) <= hoeffding_bentkus(losses, small) + 1e-12


@pytest.mark.parametrize(("epsilon", "num_prompts"), [(0.05, 100), (0.2, 30), (0.5, 12)])
def test_p_values_are_valid_under_the_null(epsilon, num_prompts):
    # Exactly, for losses of 0 and 1 with expectation epsilon, the worst case: P(p <= u) <= u for every u.
    counts = np.arange(num_prompts + 1)
    p_values = np.array([hoeffding_bentkus(_zeros_and_ones(count, num_prompts), epsilon) for count in counts])
    masses = stats.binom.pmf(counts, num_prompts, epsilon)
    for level in p_values:
        assert masses[p_values <= level].sum() <= level + 1e-12


def test_p_values_are_valid_for_losses_between_0_and_1():
    generator = np.random.default_rng(0)
    # Beta(.2, 1.8) has expectation .1 and much of its mass near 0.
    p_values = [hoeffding_bentkus(generator.beta(0.2, 1.8, 50), 0.1) for _ in range(2000)]
    for level in (0.05, 0.1, 0.3):
        assert np.mean(np.array(p_values) <= level) <= level + 3 * math.sqrt(level * (1 - level) / 2000)


BOUNDS = (0.02, 0.05, 0.1, 0.2)


def _table(**losses):
    """Return a roll-out of fixed losses; `b05=3` gives the bound 0.05 three losses of 1 among 100 prompts."""
    table = {float(name.replace("b", "0.")): count for name, count in losses.items()}
    rolled = []

    def roll_out(bound):
        rolled.append(bound)
        return _zeros_and_ones(table[bound], 100)

    return roll_out, rolled


def test_fixed_sequence_stops_at_the_first_that_fails():
    roll_out, rolled = _table(b02=0, b05=1, b1=30, b2=0)
    found = calibrate(roll_out, BOUNDS[::-1], 0.1, 0.1, "fixed-sequence")
    assert rolled == [0.02, 0.05, 0.1]
    assert [one.is_certified for one in found.tested] == [True, True, False]
    assert found.chosen.dependency_bound == 0.05
    assert found.chosen.mean_loss == pytest.approx(0.01)
    assert found.num_prompts == 100


def test_bonferroni_tests_all_at_a_share_of_the_level():
    roll_out, rolled = _table(b02=0, b05=4, b1=30, b2=0)
    found = calibrate(roll_out, BOUNDS, 0.1, 0.1, "bonferroni")
    assert rolled == list(BOUNDS)
    # Four losses pass at level .1 and not at .025.
    assert 0.025 < found.tested[1].p_value < 0.1
    assert [one.is_certified for one in found.tested] == [True, False, False, True]
    assert found.chosen.dependency_bound == 0.2


def test_nothing_is_chosen_where_nothing_is_certified():
    assert calibrate(_table(b02=10)[0], [0.02], 0.1, 0.1).chosen is None


def _failure_share(choose, num_draws=1000, num_prompts=60, epsilon=0.1):
    """Return how often the chosen bound has a larger expected loss than epsilon, over calibration draws.

    The expected losses rise with the bound past the limit; the losses of a prompt at different bounds are dependent.
    """
    bounds = np.linspace(0.01, 0.2, 20)
    expected = dict(zip(bounds, np.linspace(0.02, 0.3, 20), strict=True))
    generator = np.random.default_rng(1)
    failures = 0
    for _ in range(num_draws):
        noise = generator.random(num_prompts)
        chosen = choose(lambda bound, noise=noise: (noise < expected[bound]).astype(float), bounds, epsilon)
        failures += chosen is not None and expected[chosen] > epsilon
    return failures / num_draws


@pytest.mark.parametrize("test", ["fixed-sequence", "bonferroni"])
def test_the_guarantee_holds_over_calibration_draws(test):
    delta = 0.2

    def choose(roll_out, bounds, epsilon):
        chosen = calibrate(roll_out, list(bounds), epsilon, delta, test).chosen
        return chosen and chosen.dependency_bound

    share = _failure_share(choose)
    assert share <= delta + 2 * math.sqrt(delta * (1 - delta) / 1000)
    # It fails sometimes: the test is not empty.
    assert share > 0


def test_the_largest_bound_whose_mean_loss_looks_small_breaks_the_guarantee():
    def choose(roll_out, bounds, epsilon):
        return max((bound for bound in bounds if roll_out(bound).mean() <= epsilon), default=None)

    assert _failure_share(choose) > 0.4


def test_testing_every_bound_at_the_whole_level_breaks_the_guarantee():
    # All bounds are just above the limit and independent of each other: one of many looks good by luck.
    generator = np.random.default_rng(2)
    broken = sum(
        any(hoeffding_bentkus((generator.random(60) < 0.11).astype(float), 0.1) <= 0.2 for _ in range(40))
        for _ in range(200)
    )
    honest = sum(
        calibrate(lambda bound: (generator.random(60) < 0.11).astype(float), range(40), 0.1, 0.2).chosen is not None
        for _ in range(200)
    )
    assert broken / 200 > 0.5
    assert honest / 200 <= 0.2 + 2 * math.sqrt(0.2 * 0.8 / 200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0.0}, r"`epsilon` must be a number in \(0, 1\), got 0.0"),
        ({"epsilon": 1}, r"`epsilon` must be a number in \(0, 1\), got 1"),
        ({"delta": 1.5}, r"`delta` must be a number in \(0, 1\), got 1.5"),
        ({"delta": float("nan")}, r"`delta` must be a number in \(0, 1\), got nan"),
        ({"test": "holm"}, "`test` must be one of fixed-sequence, bonferroni, got 'holm'"),
        ({"bounds": []}, r"`bounds` must be different numbers of at least 0, got \[\]"),
        ({"bounds": [0.1, 0.1]}, r"`bounds` must be different numbers of at least 0, got \[0.1, 0.1\]"),
        ({"bounds": [-0.1]}, r"`bounds` must be different numbers of at least 0, got \[-0.1\]"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_decoded(arguments, message):
    roll_out, rolled = _table(b02=0)
    with pytest.raises(ValueError, match=message):
        calibrate(roll_out, **{"bounds": [0.02], **arguments})
    assert rolled == []


@pytest.mark.parametrize("losses", [[], [1.1], [-0.1, 0.5], [float("nan")]])
def test_losses_outside_the_unit_interval_are_refused(losses):
    with pytest.raises(ValueError, match=r"`losses` must be at least one number in \[0, 1\]"):
        hoeffding_bentkus(np.array(losses), 0.1)
