import pytest
import torch

from demask_hf import make_strategy


def _step(make_step, confidences, **kwargs):
    return make_step(
        [[1 - confidence, confidence, 0.0] for confidence in confidences], tokens=[1] * len(confidences), **kwargs
    )


def _selected(step, **fields):
    return make_strategy("local_leap", **fields).select(step).nonzero()[:, 1].tolist()


@pytest.mark.parametrize(
    ("radius", "expected"), [(0, [2]), (1, [1, 2]), (2, [0, 1, 2]), (4, [0, 1, 2, 6]), (100, [0, 1, 2, 6, 7])]
)
def test_anchors_lower_the_threshold_near_them(make_step, radius, expected):
    step = _step(make_step, [0.75, 0.8, 0.9, 0.7, 0.5, 0.25, 0.76, 0.8])
    assert _selected(step, radius=radius) == expected


def test_without_an_anchor_the_best_position_goes_alone(make_step):
    assert _selected(_step(make_step, [0.8, 0.85, 0.8])) == [1]


def test_only_masked_positions_are_anchors(make_step):
    # The columns 0 and 3 are masked, three places apart; what is written between them does not count.
    step = _step(make_step, [0.8, 0.95], candidates=[[True, False, False, True]])
    assert _selected(step, radius=2) == [3]
    assert _selected(step, radius=3) == [0, 3]


def test_confidence_is_that_of_the_token_to_be_written(make_step):
    step = make_step([[0.95, 0.05], [0.1, 0.9]], tokens=[1, 1])
    assert _selected(step, relaxed_threshold=0.05) == [0, 1]
    assert _selected(step, relaxed_threshold=0.06) == [1]


def test_it_equals_a_loop_over_pairs(make_step):
    generator = torch.Generator().manual_seed(0)
    for radius in range(6):
        confidences = torch.randint(32, 64, (12,), generator=generator).div(64).tolist()
        anchors = [column for column in range(12) if confidences[column] >= 0.9]
        expected = {confidences.index(max(confidences)), *anchors}
        for column, confidence in enumerate(confidences):
            if confidence >= 0.75 and any(abs(column - anchor) <= radius for anchor in anchors):
                expected.add(column)
        assert _selected(_step(make_step, confidences), radius=radius) == sorted(expected)


def test_rows_are_independent(make_step):
    step = _step(make_step, [0.95, 0.8, 0.8, 0.7], candidates=[[True, True, False], [False, True, True]])
    assert make_strategy("local_leap").select(step).tolist() == [[True, True, False], [False, True, False]]


def test_blocks_and_passes_by_hand(scripted):
    model = scripted([{5: 0.95}, {6: 0.5}, {7: 0.8}, {8: 0.8}])
    settings = {"max_new_tokens": 4, "strategy": "local_leap", "return_dict_in_generate": True}
    output = model.generate(torch.tensor([[9]]), radius=2, **settings)
    assert output.unmask_step.tolist() == [[-1, 0, 2, 0, 1]]
    # Anchors lie in the block.
    output = model.generate(torch.tensor([[9]]), radius=2, block_length=2, **settings)
    assert output.unmask_step.tolist() == [[-1, 0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"confidence_threshold": 1.1}, r"`confidence_threshold` must be a number in \[0, 1\], got 1\.1"),
        ({"relaxed_threshold": -0.1}, r"`relaxed_threshold` must be a number in \[0, 0\.9\], got -0\.1"),
        ({"relaxed_threshold": 0.95}, r"`relaxed_threshold` must be a number in \[0, 0\.9\], got 0\.95"),
        ({"radius": -1}, "`radius` must be an integer of at least 0, got -1"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("local_leap", **fields)
