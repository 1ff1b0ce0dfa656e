"""The product of marginals against the chain joint, compared with enumeration by hand."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demask_hf.bound import joint as chain
from demask_hf.bound.joint import OrderedSet, draw_from_joint, exact_error, order_distances, sampled_errors
from demask_hf.evaluation.statistics import empirical_bernstein


fixtures_are_functions = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


def _ordered(predict, order=None):
    size = len(predict.sequence)
    return OrderedSet(predict, predict.sequence, torch.tensor(list(range(size)) if order is None else order))


def _chain(predict, order, vocab_size):
    """Return joint and product of every continuation, by the definition."""
    blank = predict.sequence.tolist()
    joint, product = {}, {}
    for tokens in itertools.product(range(vocab_size), repeat=len(order)):
        seen, q, p = list(blank), 1.0, 1.0
        for column, token in zip(order, tokens, strict=True):
            p *= float(predict.distribution(blank, column)[token])
            q *= float(predict.distribution(seen, column)[token])
            seen[column] = token
        joint[tokens], product[tokens] = q, p
    return joint, product


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_xor_has_error_one_half(joint_predict, xor_joint):
    error = exact_error(_ordered(joint_predict(xor_joint)), tolerance=0)
    assert error.total_variation == pytest.approx(0.5)
    assert error.terms == pytest.approx((0.0, 0.5))
    assert error.left_out == 0


def test_independent_positions_have_no_error(joint_predict):
    joint = torch.einsum("a,b,c->abc", *torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.25, 0.5, 0.25]]).double())
    ordered = _ordered(joint_predict(joint), [2, 0, 1])
    assert exact_error(ordered, tolerance=0).total_variation == pytest.approx(0, abs=1e-12)
    assert sampled_errors(ordered, 50, _generator()).max() < 1e-12


def test_one_position_has_no_error(joint_predict):
    ordered = _ordered(joint_predict(torch.tensor([0.25, 0.75])))
    assert exact_error(ordered) == chain.ExactError(0.0, 0.0, (), ())
    assert sampled_errors(ordered, 3, _generator()).tolist() == [0, 0, 0]
    assert draw_from_joint(ordered, 3, _generator()).terms.shape == (3, 0)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_enumeration_follows_the_definition_without_a_common_joint(unrelated_predict, order):
    predict = unrelated_predict(3, 3, 5)
    joint, product = _chain(predict, order, 3)
    error = exact_error(_ordered(predict, order), tolerance=0)
    expected = sum(max(0.0, product[tokens] - joint[tokens]) for tokens in joint)
    assert error.total_variation == pytest.approx(expected)
    # The last term by its definition: the expectation is over the joint of the first two.
    blank, last = predict.sequence.tolist(), 0.0
    for first, second in itertools.product(range(3), repeat=2):
        seen = list(blank)
        seen[order[0]], seen[order[1]] = first, second
        shift = predict.distribution(seen, order[2]) - predict.distribution(blank, order[2])
        last += sum(joint[first, second, third] for third in range(3)) * 0.5 * float(shift.abs().sum())
    assert error.terms[1] == pytest.approx(last)


@fixtures_are_functions
@given(
    weights=st.lists(st.integers(0, 9), min_size=8, max_size=8).filter(any),
    order=st.permutations([0, 1, 2]),
)
def test_the_telescoped_sum_is_never_below_the_error(joint_predict, weights, order):
    joint = np.array(weights, dtype=float).reshape(2, 2, 2)
    error = exact_error(_ordered(joint_predict(joint / joint.sum()), order), tolerance=0)
    assert error.total_variation <= sum(error.terms) + 1e-9
    # With one joint behind all predictions the error is the distance of the table to its product.
    joint = joint / joint.sum()
    product = np.einsum("a,b,c->abc", joint.sum((1, 2)), joint.sum((0, 2)), joint.sum((0, 1)))
    assert error.total_variation == pytest.approx(0.5 * np.abs(joint - product).sum(), abs=1e-9)


@fixtures_are_functions
@given(seed=st.integers(0, 10_000), order=st.permutations([0, 1, 2]))
def test_the_telescoped_sum_bounds_inconsistent_predictions_too(unrelated_predict, seed, order):
    error = exact_error(_ordered(unrelated_predict(3, 3, seed), order), tolerance=0)
    assert error.total_variation <= sum(error.terms) + 1e-9


@fixtures_are_functions
@given(seed=st.integers(0, 10_000), tolerance=st.sampled_from([0.01, 0.1, 0.4]))
def test_what_is_left_out_is_accounted_for(unrelated_predict, seed, tolerance):
    ordered = _ordered(unrelated_predict(3, 4, seed))
    whole, part = exact_error(ordered, tolerance=0), exact_error(ordered, tolerance=tolerance)
    assert part.left_out <= tolerance + 1e-9
    assert part.total_variation - 1e-9 <= whole.total_variation <= part.total_variation + part.left_out + 1e-9
    for term, left_out, true in zip(part.terms, part.terms_left_out, whole.terms, strict=True):
        assert term - 1e-9 <= true <= term + left_out + 1e-9


def test_too_many_continuations_are_not_enumerated(unrelated_predict):
    ordered = _ordered(unrelated_predict(3, 4, 0))
    assert exact_error(ordered, max_continuations=16, tolerance=0) is not None
    assert exact_error(ordered, max_continuations=15, tolerance=0) is None
    assert exact_error(ordered, max_continuations=1, tolerance=0) is None


@pytest.mark.parametrize("seed", range(3))
def test_monte_carlo_is_unbiased(unrelated_predict, seed):
    ordered = _ordered(unrelated_predict(3, 3, seed), [1, 2, 0])
    error = exact_error(ordered, tolerance=0)
    values = sampled_errors(ordered, 20_000, _generator(seed))
    assert ((values >= 0) & (values <= 1)).all()
    assert float(values.mean()) == pytest.approx(error.total_variation, abs=5 * float(values.std()) / 20_000**0.5)
    draws = draw_from_joint(ordered, 20_000, _generator(seed))
    mean = float(draws.errors.mean())
    assert mean == pytest.approx(error.total_variation, abs=5 * float(draws.errors.std()) / 20_000**0.5)
    for term, expected in zip(draws.terms.T, error.terms, strict=True):
        assert float(term.mean()) == pytest.approx(expected, abs=5 * float(term.std()) / 20_000**0.5 + 1e-12)


def test_few_draws_do_not_bias_the_estimate(joint_predict, xor_joint):
    # The mean over many runs of a single draw: a histogram of draws would say that the error is nearly 1.
    ordered = _ordered(joint_predict(xor_joint))
    values = torch.cat([sampled_errors(ordered, 1, _generator(seed)) for seed in range(300)])
    assert float(values.mean()) == pytest.approx(0.5, abs=1e-9)


def test_draws_from_the_joint_have_its_probabilities(unrelated_predict):
    predict = unrelated_predict(3, 2, 1)
    joint, _ = _chain(predict, [2, 0, 1], 2)
    draws = draw_from_joint(_ordered(predict, [2, 0, 1]), 20_000, _generator())
    for tokens, expected in joint.items():
        is_that = (draws.tokens == torch.tensor(tokens)).all(dim=1)
        assert float(is_that.double().mean()) == pytest.approx(expected, abs=0.02)
        assert float(draws.log_probabilities[is_that][0].exp()) == pytest.approx(expected)


def test_orders_of_one_joint_agree_and_others_differ_by_their_distance(joint_predict, unrelated_predict):
    table = torch.rand(2, 2, 2, generator=_generator(3)).double()
    ordered = _ordered(joint_predict(table / table.sum()))
    draws = draw_from_joint(ordered, 200, _generator())
    assert order_distances(ordered, draws, torch.tensor([2, 1, 0])).max() < 1e-9
    predict = unrelated_predict(2, 3, 4)
    forwards, _ = _chain(predict, [0, 1], 3)
    backwards, _ = _chain(predict, [1, 0], 3)
    expected = sum(max(0.0, forwards[a, b] - backwards[b, a]) for a, b in forwards)
    ordered = _ordered(predict)
    values = order_distances(ordered, draw_from_joint(ordered, 20_000, _generator()), torch.tensor([1, 0]))
    assert expected > 0.01
    assert float(values.mean()) == pytest.approx(expected, abs=5 * float(values.std()) / 20_000**0.5)


def test_equal_continuations_are_predicted_once_and_batches_change_nothing(unrelated_predict, monkeypatch):
    predict = unrelated_predict(3, 3, 0)
    expected = sampled_errors(_ordered(predict), 500, _generator())
    assert sum(map(len, predict.calls)) <= 1 + 3 + 9
    monkeypatch.setattr(chain, "_BATCH_SIZE", 2)
    predict.calls.clear()
    assert torch.equal(sampled_errors(_ordered(predict), 500, _generator()), expected)
    assert max(map(len, predict.calls)) == 2


def test_the_interval_covers_the_error(unrelated_predict):
    ordered = _ordered(unrelated_predict(3, 3, 7))
    true = exact_error(ordered, tolerance=0).total_variation
    found = [empirical_bernstein(sampled_errors(ordered, 40, _generator(seed)), 0.9) for seed in range(60)]
    # At least 90 % should; the bound of Maurer and Pontil is far from tight at 40 draws.
    assert sum(interval.lower <= true <= interval.upper for interval in found) >= 54
