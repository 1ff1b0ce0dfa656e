import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demask_hf.evaluation.decoding import decode_prompts
from demask_hf.evaluation.metrics import finalization_parallelism, order_correlation


steps = st.lists(st.integers(-1, 6), min_size=2, max_size=12)


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
    rule = {"name": "sequential", "score": "left_to_right"}
    (decoding,) = decode_prompts(dream, tokenizer, ["w5 w6"], rule, max_new_tokens=5, stop_at_eos=False)
    correlation = order_correlation(decoding.unmask_steps)
    assert (correlation.tau_a, correlation.tau_b) == (1.0, pytest.approx(1.0))
    assert finalization_parallelism(decoding.unmask_steps) == 1.0
