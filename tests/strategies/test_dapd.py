import pytest
import torch

from demask_hf import make_strategy


# Symmetric attention of three positions: sums .625, .75, .375; largest entries of the rows .5, .5, .25.
ATTENTIONS = [[0.0, 0.5, 0.125], [0.5, 0.0, 0.25], [0.125, 0.25, 0.0]]


def _step(make_step, confidences, attentions=ATTENTIONS, masked=None):
    """Return a step of one row; a confidence of `None` is no candidate, `masked` says which of them are masked yet."""
    candidates = torch.tensor([[confidence is not None for confidence in confidences]])
    masked = candidates if masked is None else torch.tensor([masked])
    return make_step(
        [[confidence, 1 - confidence] for confidence in confidences if confidence is not None],
        candidates=candidates,
        sequences=torch.full(masked.shape, 3).masked_fill(masked, 1),
        attentions=torch.tensor([attentions]),
    )


def _select(strategy, step):
    return strategy.select(step).nonzero()[:, 1].tolist()


def _bounded(bound, **fields):
    return make_strategy("dapd", initial_bound=bound, final_bound=bound, **{"confidence_threshold": None, **fields})


def test_order_is_attention_times_confidence(make_step):
    # Position 1 comes first (.75 * .5 > .625 * .5 > .375 * .5); then 0 attends to 1 by 1, and 2 to 1 by 1.
    assert _select(_bounded(0.5), _step(make_step, [0.5, 0.5, 0.5])) == [1]
    # Now position 0 comes first (.625 * .95 > .75 * .75 > .375 * .75); 1 attends to 0 by 1, and 2 to 0 by .125 / .25.
    assert _select(_bounded(0.5), _step(make_step, [0.95, 0.75, 0.75])) == [0, 2]


def test_the_row_of_the_later_position_decides(make_step):
    # Order 2, 1, 0 (.375 * .99 > .75 * .49 > .625 * .5 with a third token): 1 attends to 2 by .25 / .5, 2 to 1 by 1.
    probabilities = [[0.5, 0.3, 0.2], [0.49, 0.3, 0.21], [0.99, 0.005, 0.005]]
    step = make_step(probabilities, attentions=torch.tensor([ATTENTIONS]))
    assert _select(_bounded(0.5), step) == [1, 2]
    assert _select(_bounded(0.49), step) == [0, 2]


def test_the_bound_itself_is_allowed_for_every_earlier_position(make_step):
    step = _step(make_step, [0.95, 0.75, 0.75])
    assert _select(_bounded(0.5), step) == [0, 2]
    assert _select(_bounded(0.49), step) == [0]
    assert _select(_bounded(1.0), step) == [0, 1, 2]


def test_both_directions_count_and_the_diagonal_does_not(make_step):
    one_way = [[9.0, 1.0, 0.25], [0.0, 9.0, 0.5], [0.0, 0.0, 9.0]]
    for confidences in ([0.5, 0.5, 0.5], [0.95, 0.75, 0.75]):
        first, second = (_step(make_step, confidences, attentions) for attentions in (ATTENTIONS, one_way))
        assert _select(_bounded(0.5), first) == _select(_bounded(0.5), second)


def test_attention_to_other_than_candidates_does_not_count(make_step):
    attentions = torch.full((5, 5), 7.0)
    attentions[1:4, 1:4] = torch.tensor(ATTENTIONS)
    step = _step(make_step, [None, 0.95, 0.75, 0.75, None], attentions.tolist())
    assert _select(_bounded(0.5), step) == [1, 3]


def test_a_position_without_attention_is_free(make_step):
    assert _select(_bounded(0.0), _step(make_step, [0.9, 0.8, 0.7], [[0.0] * 3] * 3)) == [0, 1, 2]


def _later(make_step, num_masked, confidences=(0.95, 0.75, 0.75), attentions=ATTENTIONS):
    """Return the step of three candidates while further positions of a later block are masked."""
    padded = torch.nn.functional.pad(torch.tensor(attentions), (0, 5, 0, 5)).tolist()
    return _step(make_step, [*confidences, *[None] * 5], padded, [index < num_masked for index in range(8)])


def test_the_bound_rises_with_the_share_of_masks_that_are_gone(make_step):
    # Position 0 comes first, 1 attends to it by 1 and 2 by 1 / 2; the bounds are .25, .25 + .5 * 3 / 8 and .5.
    strategy = make_strategy("dapd", initial_bound=0.25, final_bound=0.75, confidence_threshold=None)
    assert [_select(strategy, _later(make_step, count)) for count in (8, 5, 4)] == [[0], [0], [0, 2]]


def test_progress_is_counted_from_the_first_step(make_step):
    strategy = make_strategy("dapd", initial_bound=0.25, final_bound=0.75, confidence_threshold=None)
    assert [_select(strategy, _later(make_step, count)) for count in (4, 3)] == [[0], [0]]


def test_from_half_way_on_confident_positions_are_unmasked_too(make_step):
    attentions = [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    steps = [_later(make_step, count, (0.8, 0.95, 0.9), attentions) for count in (8, 5, 4)]
    strategy = make_strategy("dapd")
    # Progress 0, 3 / 8 and 1 / 2.
    assert [_select(strategy, step) for step in steps] == [[1], [1], [1, 2]]
    strategy = make_strategy("dapd", confidence_threshold=None)
    assert [_select(strategy, step) for step in steps] == [[1], [1], [1]]


def test_rows_have_their_own_progress(make_step):
    strategy = make_strategy("dapd", initial_bound=0.0, final_bound=1.0)
    masked = torch.ones(2, 4, dtype=torch.bool)
    for gone, expected in (([], [0.0, 0.0]), ([(0, 1)], [0.25, 0.0]), ([(0, 2), (1, 0), (1, 1)], [0.5, 0.5])):
        for row, column in gone:
            masked[row, column] = False
        step = make_step(torch.full((int(masked.sum()), 2), 0.5), candidates=masked)
        assert strategy._progress(step).tolist() == expected


@pytest.mark.parametrize(("num_layers", "expected"), [(1, 1), (2, 1), (3, 1), (5, 2), (10, 3), (28, 9), (32, 10)])
def test_attention_is_averaged_over_the_last_third(num_layers, expected):
    (layers,) = make_strategy("dapd").needs
    assert layers.of(num_layers) == expected


def test_share_of_all_layers():
    (layers,) = make_strategy("dapd", layer_share=1).needs
    assert layers.of(28) == 28


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"initial_bound": -0.1}, r"`initial_bound` must be a number in \[0, 1\], got -0\.1\."),
        ({"final_bound": 1.5}, r"`final_bound` must be a number in \[0, 1\], got 1\.5\."),
        ({"confidence_threshold": 2}, r"`confidence_threshold` must be a number in \[0, 1\], got 2\."),
        ({"layer_share": 0}, r"`layer_share` must be a number in \(0, 1\], got 0\."),
    ],
)
def test_limits_outside_their_interval_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("dapd", **fields)
