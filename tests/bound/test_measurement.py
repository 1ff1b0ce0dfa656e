"""One set beside its bound; the cases in which the bound fails are reported as failing."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demask_hf import make_strategy
from demask_hf.bound.joint import OrderedSet
from demask_hf.bound.measurement import (
    SetMeasurement,
    VerificationSettings,
    measure_set,
    measured_among,
    predicted_among,
)
from demask_hf.bound.summary import summarise_sets
from demask_hf.bound.visits import drawing_predictor
from demask_hf.evaluation.statistics import Interval


def _measure(predict, order, head=None, num_orders=0, **fields):
    columns = torch.tensor(order)
    dependencies = measured_among(predict, predict.sequence, columns, predict.mask, 0.0)
    ordered = OrderedSet(predict, predict.sequence, columns)
    return measure_set(ordered, dependencies, head, VerificationSettings(**fields), num_orders)


@pytest.mark.parametrize("max_continuations", [512, 0])
def test_xor_is_reported_as_failing(joint_predict, xor_joint, max_continuations):
    found = _measure(joint_predict(xor_joint), [0, 1, 2], num_draws=400, max_continuations=max_continuations)
    assert found.is_exact == (max_continuations > 0)
    assert found.total_variation.value == pytest.approx(0.5)
    assert sum(found.costs) == pytest.approx(0, abs=1e-6)
    assert (found.subadditive, found.bounded) == ("fails", "fails")
    assert found.telescoped == pytest.approx(0.5)
    summary = summarise_sets([found] * 3)
    assert (summary.bounded.num_holding, summary.bounded.num_failing) == (0, 3)
    assert summary.subadditive.num_failing == 3
    assert summary.bounded.upper < 0.75
    assert summary.tightness == pytest.approx(0, abs=1e-5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(seed=st.integers(0, 10_000), order=st.permutations([0, 1]))
def test_for_two_positions_the_error_is_the_dependency(unrelated_predict, seed, order):
    found = _measure(unrelated_predict(2, 4, seed), order)
    assert found.total_variation.value == pytest.approx(found.costs[0], abs=2e-4)
    assert (found.subadditive, found.bounded) == ("holds", "holds")


def test_independent_positions_are_bounded_by_nothing(joint_predict):
    joint = torch.einsum("a,b,c->abc", *torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.25, 0.75]]))
    found = _measure(joint_predict(joint), [2, 1, 0])
    assert found.total_variation.value == pytest.approx(0, abs=1e-6)
    assert found.bounded == found.subadditive == "holds"
    assert found.tightness is None


def test_costs_count_pairs_from_earlier_to_later_in_the_order(unrelated_predict):
    predict = unrelated_predict(3, 3, 2)
    by_column = measured_among(predict, predict.sequence, torch.arange(3), predict.mask, 0.0).dependencies[0]
    head = torch.tensor([[0.0, 0.1, 0.2], [0.9, 0.0, 0.4], [0.9, 0.9, 0.0]])
    found = _measure(predict, [2, 0, 1], head=head)
    assert found.costs == pytest.approx((by_column[2, 0].item(), (by_column[2, 1] + by_column[0, 1]).item()))
    assert found.head_costs == pytest.approx((0.1, 0.6))


def test_other_orders_are_measured(unrelated_predict, joint_predict):
    table = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(1))
    consistent = _measure(joint_predict(table / table.sum()), [0, 1, 2], num_orders=2)
    assert [one.positions for one in consistent.orders][0] == (2, 1, 0)
    for one in consistent.orders:
        assert sorted(one.positions) == [0, 1, 2]
        assert one.total_variation.value == pytest.approx(consistent.total_variation.value, abs=1e-3)
        assert one.distance.value == pytest.approx(0, abs=1e-6)
    other = _measure(unrelated_predict(3, 3, 8), [0, 1, 2], num_orders=1).orders[0]
    assert other.distance.value > 0.01


def test_measuring_again_gives_the_same_and_another_seed_another(unrelated_predict):
    predict = unrelated_predict(3, 3, 3)
    settings = {"max_continuations": 0, "num_draws": 30}
    assert _measure(predict, [0, 1, 2], **settings) == _measure(predict, [0, 1, 2], **settings)
    assert _measure(predict, [0, 1, 2], **settings) != _measure(predict, [0, 1, 2], **settings, seed=1)


def _with(total_variation, costs, terms, uncovered=0.0):
    return SetMeasurement((0, 1, 2), False, total_variation, terms, costs, (0.5, 0.5), uncovered)


@pytest.mark.parametrize(
    ("error", "uncovered", "expected"),
    [
        (Interval(0.2, 0.1, 0.3), 0.0, "holds"),
        (Interval(0.2, 0.1, 0.3005), 0.0, "holds"),
        (Interval(0.2, 0.1, 0.4), 0.0, "open"),
        (Interval(0.35, 0.3, 0.4), 0.0, "open"),
        (Interval(0.35, 0.32, 0.4), 0.0, "fails"),
        # Three pairs whose dependencies may each be 0.01 larger.
        (Interval(0.35, 0.32, 0.4), 0.01, "open"),
        (Interval(0.35, 0.34, 0.4), 0.01, "fails"),
    ],
)
def test_a_verdict_needs_the_whole_interval(error, uncovered, expected):
    exact = Interval(0.1, 0.1, 0.1)
    found = _with(error, (0.1, 0.2), (exact, exact), uncovered)
    assert found.bounded == expected
    assert found.bounded_by_head == "holds"
    # The error is the third position's term: two pairs.
    term = _with(exact, (0.1, 0.3), (exact, error), uncovered)
    assert term.subadditive == ("fails" if expected == "fails" and uncovered == 0.01 else expected)


def test_what_the_head_predicts_is_in_the_order_of_the_candidates(dream_with_head):
    sequence = torch.tensor([5, 6, 1, 1, 7, 1])
    sorted_columns, walk = torch.tensor([2, 3, 5]), torch.tensor([5, 2, 3])
    predictor = drawing_predictor(dream_with_head, make_strategy("demask"), {"temperature": 1.0})
    head = dream_with_head.demask_head
    expected = predicted_among(predictor, head, sequence, sorted_columns)
    found = predicted_among(predictor, head, sequence, walk)
    assert torch.allclose(found, expected[[2, 0, 1]][:, [2, 0, 1]])
    assert (found.diagonal() == 0).all()
    assert predicted_among(predictor, None, sequence, walk) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_draws": 1}, "`num_draws` must be an integer of at least 2, got 1"),
        ({"max_continuations": -1}, "`max_continuations` must be an integer of at least 0, got -1"),
        ({"num_orders": -1}, "`num_orders` must be an integer of at least 0, got -1"),
        ({"min_probability": 1.0}, r"`min_probability` must be a number in \[0, 1\), got 1.0"),
        ({"confidence": 1.0}, r"`confidence` must be a number in \(0, 1\), got 1.0"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        VerificationSettings(**fields)
