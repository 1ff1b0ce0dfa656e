import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demask_hf.functional.distributions import confidence, entropy, kl_divergence, margin, total_variation


PROBABILITIES = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.0, 0.0, 1.0]])


@st.composite
def distributions(draw, count):
    """Draw `count` distributions over the same tokens, in multiples of 1/64 of their sum."""
    size = draw(st.integers(2, 6))
    rows = draw(
        st.lists(
            st.lists(st.integers(0, 64), min_size=size, max_size=size).filter(any), min_size=count, max_size=count
        )
    )
    weights = torch.tensor(rows, dtype=torch.float64)
    return weights / weights.sum(dim=-1, keepdim=True)


def test_confidence_is_the_largest_probability():
    assert confidence(PROBABILITIES).tolist() == [0.5, 0.75, 1.0]


def test_margin_is_the_gap_between_the_two_best_tokens():
    assert margin(PROBABILITIES).tolist() == [0.25, 0.625, 1.0]


def test_entropy_is_in_nats():
    expected = [1.5 * math.log(2), 0.75 * math.log(4 / 3) + 0.25 * math.log(8), 0.0]
    torch.testing.assert_close(entropy(PROBABILITIES), torch.tensor(expected), atol=1e-6, rtol=0)


def test_kl_divergence_by_hand():
    first, second = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    value = kl_divergence(first, second)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected, abs=1e-9)


def test_kl_divergence_against_nothing_is_large_as_in_the_public_sampler():
    value = kl_divergence(torch.tensor([0.5, 0.5]), torch.zeros(2))
    assert value.item() == pytest.approx(math.log(1e12) - math.log(2), abs=1e-6)


def test_scores_keep_leading_dimensions():
    many = PROBABILITIES.expand(2, 4, 3, 3)
    for score in (confidence, margin, entropy):
        assert score(many).shape == (2, 4, 3)
    assert kl_divergence(many, many).shape == total_variation(many, many).shape == (2, 4, 3)


@given(distributions(3))
def test_total_variation_is_a_metric_in_the_unit_interval(rows):
    p, q, r = rows
    assert 0 <= total_variation(p, q).item() <= 1
    assert total_variation(p, p).item() == 0
    assert total_variation(p, q).item() == total_variation(q, p).item()
    assert total_variation(p, r) <= total_variation(p, q) + total_variation(q, r) + 1e-12
    assert (total_variation(p, q) < 1e-12) == torch.equal(p, q)


@given(distributions(2))
def test_total_variation_is_the_largest_difference_of_an_event(rows):
    p, q = rows
    largest = (p - q).clamp(min=0).sum()
    torch.testing.assert_close(total_variation(p, q), largest)


@given(distributions(2))
def test_total_variation_obeys_pinsker(rows):
    p, q = rows
    assert 2 * total_variation(p, q) ** 2 <= kl_divergence(p, q) + 1e-9


@given(distributions(1))
def test_scores_lie_in_their_intervals(rows):
    size = rows.shape[-1]
    assert 1 / size - 1e-12 <= confidence(rows).item() <= 1
    assert 0 <= margin(rows).item() <= confidence(rows).item()
    assert -1e-9 <= entropy(rows).item() <= math.log(size) + 1e-9


def test_disjoint_distributions_are_at_distance_one():
    assert total_variation(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).item() == 1.0
