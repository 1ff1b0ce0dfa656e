import math

import numpy as np
import pytest
import torch

from demask_hf.training.examples import DependencyExample
from demask_hf.training.metrics import PairPredictions, area_under_curve, fit_of, predict_pairs, reliability_of


def _example(positions, targets, sources=None):
    size = len(positions)
    return DependencyExample(
        hidden_states=torch.zeros(size, 4),
        positions=torch.tensor(positions),
        sources=torch.arange(size) if sources is None else torch.tensor(sources),
        targets=torch.tensor(targets),
        confidence=torch.zeros(size),
        entropy=torch.zeros(size),
        tokens=torch.zeros(size, dtype=torch.long),
    )


@pytest.fixture
def head(scripted_head):
    """Return a head that predicts 0.1 * source + 0.01 * target, by position."""
    return scripted_head(torch.arange(10)[:, None] * 0.1 + torch.arange(10) * 0.01)


def test_pairs_are_the_measured_ones_off_the_diagonal(head):
    example = _example([1, 3, 4], [[0.0, 0.5, 0.25], [0.75, 1.0, 0.0]], sources=[0, 2])
    pairs = predict_pairs(head, [example])
    assert pairs.measured.tolist() == [0.5, 0.25, 0.75, 1.0]
    assert pairs.distances.tolist() == [2, 3, -3, -1]
    np.testing.assert_allclose(pairs.predicted, [0.13, 0.14, 0.41, 0.43], rtol=1e-6)


def test_batches_give_the_same_pairs(head):
    examples = [_example([1, 3, 4], [[0.0, 0.5, 0.25]], sources=[0]), _example([2, 5], [[0.0, 0.5]], sources=[0])]
    one, two = (predict_pairs(head, examples, size).predicted for size in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_metrics_stand_beside_those_of_trivial_predictors(head):
    training = [_example([1, 3], [[0.0, 0.2], [0.6, 0.0]])]
    held_out = [_example([2, 4], [[0.0, 0.24], [0.0, 0.0]])]
    fit = fit_of(head, training, held_out)
    # Predicted 0.24 and 0.42; measured 0.24 and 0; by distance 0.2 and 0.6; mean 0.4.
    assert fit["mae"] == pytest.approx(0.21)
    assert fit["mae_distance"] == pytest.approx((0.04 + 0.6) / 2)
    assert fit["mae_mean"] == pytest.approx((0.16 + 0.4) / 2)
    assert fit["r2"] == pytest.approx(1 - (0.42**2 / 2) / 0.12**2)
    assert fit["r2_distance"] == pytest.approx(1 - ((0.04**2 + 0.6**2) / 2) / 0.12**2)
    assert fit["r2_mean"] == pytest.approx(1 - ((0.16**2 + 0.4**2) / 2) / 0.12**2)
    assert (fit["auc"], fit["auc_distance"], fit["auc_mean"]) == (0.0, 0.0, 0.5)
    assert fit["mean"] == pytest.approx(0.12)
    assert fit["num_pairs"] == 2


def test_states_without_a_pair_are_refused(head):
    with pytest.raises(ValueError, match=r"`held_out` must hold at least one measured pair, got none in 1 states\."):
        predict_pairs(head, [_example([3], [[0.0]])])


def test_reliability_has_equally_filled_bins_in_order():
    predicted = np.linspace(1, 0, 50)
    parts = reliability_of(PairPredictions(predicted, predicted**2, np.zeros(50)))
    assert [part["num_pairs"] for part in parts] == [5] * 10
    assert [part["predicted"] for part in parts] == sorted(part["predicted"] for part in parts)
    assert parts[0]["measured"] == pytest.approx((np.linspace(0, 4 / 49, 5) ** 2).mean())
    few = reliability_of(PairPredictions(predicted[:3], predicted[:3], np.zeros(3)))
    assert [part["num_pairs"] for part in few] == [1, 1, 1]


def test_area_under_curve_counts_pairs_and_halves_ties():
    scores, is_positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])
    # Pairs (positive, negative): .4 > .1, .4 = .4, .8 > .1, .8 > .4.
    assert area_under_curve(scores, is_positive) == pytest.approx(3.5 / 4)
    assert math.isnan(area_under_curve(scores, np.ones(4, dtype=bool)))
