import pytest
import torch

from demask_hf import make_strategy


def _step(make_step, confidences, **kwargs):
    return make_step([[1 - confidence, confidence] for confidence in confidences], **kwargs)


def _selected(step, **fields):
    return make_strategy("distance", **fields).select(step).nonzero()[:, 1].tolist()


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        # By confidence the columns are 2, 1, 4, 0, 5, 3.
        (1, [0, 1, 2, 3, 4, 5]),
        (2, [0, 2, 4]),
        (3, [2, 5]),
        (4, [2]),
        (100, [2]),
    ],
)
def test_taken_positions_are_apart(make_step, gap, expected):
    assert _selected(_step(make_step, [0.7, 0.9, 0.95, 0.55, 0.8, 0.6]), gap=gap) == expected


def test_distance_is_counted_in_the_text(make_step):
    # Columns 0, 3 and 4 are masked: the first two are three places apart.
    step = _step(make_step, [0.9, 0.8, 0.7], candidates=[[True, False, False, True, True]])
    assert _selected(step, gap=3) == [0, 3]
    assert _selected(step, gap=4) == [0, 4]


def test_other_orders(make_step):
    step = _step(make_step, [0.6, 0.9, 0.7])
    assert _selected(step, order="confidence") == [1]
    assert _selected(step, order="left_to_right") == [0, 2]


def test_rows_are_independent(make_step):
    step = _step(make_step, [0.6, 0.9, 0.7, 0.8], candidates=[[True, True, True], [False, False, True]])
    assert make_strategy("distance").select(step).tolist() == [[False, True, False], [False, False, True]]


def test_blocks_and_passes_by_hand(scripted):
    model = scripted([{5: 0.9}, {6: 0.8}, {7: 0.7}, {8: 0.6}])
    settings = {"max_new_tokens": 4, "strategy": "distance", "return_dict_in_generate": True}
    output = model.generate(torch.tensor([[9]]), **settings)
    assert output.unmask_step.tolist() == [[-1, 0, 1, 0, 1]]
    output = model.generate(torch.tensor([[9]]), block_length=2, **settings)
    assert output.unmask_step.tolist() == [[-1, 0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gap": 0}, "`gap` must be an integer of at least 1, got 0"),
        ({"gap": 1.5}, "`gap` must be an integer of at least 1, got 1.5"),
        ({"order": "influence"}, "`order` must be one of confidence, .*, got 'influence'"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("distance", **fields)
