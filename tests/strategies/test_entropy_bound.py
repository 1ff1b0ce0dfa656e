import math

import pytest
import torch

from demask_hf import make_strategy


def _uniform(num_tokens, vocabulary=8):
    """Return a distribution of entropy log(num_tokens)."""
    return [1 / num_tokens] * num_tokens + [0.0] * (vocabulary - num_tokens)


def _selected(bound, step):
    return make_strategy("entropy_bound", entropy_bound=bound).select(step).nonzero()[:, 1].tolist()


# Entropies 2, 0, 1, 3 in units of log 2; the sums without the largest are 0, 0, 1, 3 for prefixes of size 1 to 4.
PROBABILITIES = [_uniform(4), _uniform(1), _uniform(2), _uniform(8)]


@pytest.mark.parametrize(
    ("units", "expected"),
    [(0.0, [1, 2]), (0.9, [1, 2]), (1.1, [0, 1, 2]), (2.9, [0, 1, 2]), (3.1, [0, 1, 2, 3])],
)
def test_entropies_without_the_largest_sum_to_the_bound(make_step, units, expected):
    assert _selected(units * math.log(2) + 1e-6, make_step(PROBABILITIES)) == expected


def test_the_least_uncertain_position_always_is(make_step):
    assert _selected(0.0, make_step([_uniform(4), _uniform(2), _uniform(8)])) == [1]


def test_ties_go_to_the_earlier_position(make_step):
    assert _selected(0.0, make_step([_uniform(4), _uniform(2), _uniform(2)])) == [1]


def test_certain_positions_pay_for_nothing(make_step):
    # At a point mass the entropy rounds to just below zero; thousands of them must not add up to a discount.
    certain = torch.tensor(_uniform(1)).repeat(4000, 1)
    step = make_step(torch.cat([certain, torch.tensor([_uniform(2), _uniform(2)])]))
    selected = _selected(0.0, step)
    assert selected == list(range(4001))


def test_rows_are_independent(make_step):
    step = make_step(
        [_uniform(2), _uniform(2), _uniform(1), _uniform(2)], candidates=[[True, True, False], [False, True, True]]
    )
    selected = make_strategy("entropy_bound", entropy_bound=0.5 * math.log(2)).select(step)
    assert selected.tolist() == [[True, False, False], [False, True, True]]


@pytest.mark.parametrize(
    ("bound", "expected"), [(0.0, [0]), (0.9, [0]), (1.1, [0, 2]), (1.7, [0, 2]), (1.8, [0, 1, 2])]
)
def test_by_confidence_the_entropies_of_earlier_ranks_count(make_step, bound, expected):
    # Confidences .6, .5, .4 at columns 0, 2, 1; before them 0, 1.0889 and 1.7820 nats.
    probabilities = [[0.6, 0.2, 0.1, 0.1], [0.4, 0.38, 0.22, 0.0], [0.5, 0.5, 0.0, 0.0]]
    strategy = make_strategy("entropy_bound", entropy_bound=bound, order="confidence")
    step = make_step(probabilities)
    assert step.score("entropy").tolist() == pytest.approx([1.0889, 1.0673, 0.6931], abs=1e-4)
    assert strategy.select(step).nonzero()[:, 1].tolist() == expected
    assert strategy.sequential_order == "confidence"


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="`order` must be one of entropy, confidence, got 'margin'"):
        make_strategy("entropy_bound", order="margin")


def test_a_negative_bound_is_refused():
    with pytest.raises(ValueError, match=r"`entropy_bound` must be a number in \[0, inf\], got -0\.1\."):
        make_strategy("entropy_bound", entropy_bound=-0.1)
