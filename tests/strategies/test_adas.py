import pytest
import torch

from demask_hf import make_strategy


def _step(make_step, confidences, attentions=None, **kwargs):
    size = len(confidences)
    attentions = torch.zeros(1, size, size) if attentions is None else torch.tensor([attentions])
    rows = [[confidence, 1 - confidence] for confidence in confidences]
    return make_step(rows, tokens=[0] * size, attentions=attentions, **kwargs)


def _selected(step, **fields):
    return make_strategy("adas", **fields).select(step).nonzero()[:, 1].tolist()


# Position 1 attends to 0, and 2 to 1.
ATTENTIONS = [[0.0, 0.0, 0.0], [0.2, 0.0, 0.0], [0.0, 0.3, 0.0]]


def test_positions_that_attend_to_uncertain_ones_come_later(make_step):
    # After 0: position 1 has .8 - 10 * .2 * (1 - .9) = .6, position 2 has .7.
    step = _step(make_step, [0.9, 0.8, 0.7], ATTENTIONS)
    assert _selected(step, rule="top_k", discount=10.0) == [0, 2]
    # With 4 in place of 10 it is .72.
    assert _selected(step, rule="top_k", discount=4.0) == [0, 1]
    assert _selected(step, rule="top_k", limit=3) == [0, 1, 2]


def test_certain_positions_discount_nothing(make_step):
    assert _selected(_step(make_step, [1.0, 0.8, 0.7], ATTENTIONS), rule="top_k", discount=1e6) == [0, 1]


def test_discounts_add_up(make_step):
    # After 0 and 1, position 2 has .7 - (.1 * .1 + .1 * .2) * 10 = .4 and position 3 has .5.
    attentions = [[0.0] * 4, [0.0] * 4, [0.1, 0.1, 0.0, 0.0], [0.0] * 4]
    step = _step(make_step, [0.9, 0.8, 0.7, 0.5], attentions)
    assert _selected(step, rule="top_k", limit=3, discount=10.0) == [0, 1, 3]
    assert _selected(step, rule="top_k", limit=3, discount=6.0) == [0, 1, 2]


def test_the_rules_end_the_walk_along_its_order(make_step):
    # Order 0, 2, 1. Factor: rank 2 has 3 * (1 - .7) = .9, rank 3 has 4 * (1 - .8) = .8.
    step = _step(make_step, [0.9, 0.8, 0.7], ATTENTIONS)
    assert _selected(step, rule="factor", limit=0.89, discount=10.0) == [0]
    assert _selected(step, rule="factor", limit=0.91, discount=10.0) == [0, 1, 2]
    # Entropies .325, .611 and .5 nats in that order: sums less the largest are 0, .325 and .825.
    assert _selected(step, rule="entropy_bound", limit=0.32, discount=10.0) == [0]
    assert _selected(step, rule="entropy_bound", limit=0.33, discount=10.0) == [0, 2]
    assert _selected(step, rule="entropy_bound", limit=0.83, discount=10.0) == [0, 1, 2]


@pytest.mark.parametrize("limit", [0.0, 0.4, 1.0, 1.8])
def test_without_discount_it_is_the_factor_rule(make_step, limit):
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        confidences = (0.5 + torch.rand(8, generator=generator) / 2).tolist()
        step = _step(make_step, confidences)
        expected = make_strategy("threshold", factor=limit).select(step).nonzero()[:, 1].tolist()
        assert _selected(step, discount=0.0, limit=limit) == expected


def test_rows_are_independent_and_ties_go_to_the_earlier_position(make_step):
    candidates = torch.tensor([[True, True, False], [False, False, True]])
    step = make_step(
        [[0.8, 0.2]] * 3, tokens=[0] * 3, candidates=candidates, attentions=torch.tensor([ATTENTIONS] * 2)
    )
    selected = make_strategy("adas", rule="top_k", limit=1).select(step)
    assert selected.tolist() == [[True, False, False], [False, False, True]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"discount": -1}, r"`discount` must be a number in \[0, inf\], got -1"),
        ({"rule": "none"}, "`rule` must be one of factor, entropy_bound, top_k, got 'none'"),
        ({"limit": -0.5}, r"`limit` must be a number in \[0, inf\], got -0\.5"),
        ({"rule": "top_k", "limit": 1.5}, r"`limit` must be an integer of at least 1, got 1\.5"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("adas", **fields)
