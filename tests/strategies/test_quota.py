import pytest
import torch

from demask_hf import make_strategy


def _selected(strategy, make_step, confidences, index=0, block_length=None):
    strategy._block_length = block_length
    step = make_step(
        [[1 - confidence, confidence, 0.0] for confidence in confidences],
        tokens=[1] * len(confidences),
        block_step_index=torch.tensor([index]),
    )
    return strategy.select(step).nonzero()[:, 1].tolist()


@pytest.mark.parametrize(
    ("index", "expected"),
    # Eight tokens in three steps: 3, 3 and 2.
    [(0, [1, 2, 3]), (1, [1, 2, 3]), (2, [1, 3])],
)
def test_the_quota_is_spread_over_the_steps_of_a_block(make_step, index, expected):
    rule = make_strategy("quota", steps_per_block=3, confidence_threshold=None)
    assert _selected(rule, make_step, [0.25, 0.5, 0.375, 0.75, 0.125], index, 8) == expected


def test_everything_confident_is_unmasked_if_it_is_as_much_as_the_quota(make_step):
    confidences = [0.25, 0.75, 0.625, 0.875, 0.125]
    rule = make_strategy("quota", steps_per_block=4, confidence_threshold=0.5)
    assert _selected(rule, make_step, confidences, 0, 8) == [1, 2, 3]
    # One is not as many as two, and equality is not enough.
    rule = make_strategy("quota", steps_per_block=4, confidence_threshold=0.75)
    assert _selected(rule, make_step, confidences, 0, 8) == [1, 3]
    rule = make_strategy("quota", confidence_threshold=0.75)
    assert _selected(rule, make_step, confidences, 0, 8) == [3]


def test_the_order_may_be_that_of_reading(make_step):
    rule = make_strategy("quota", steps_per_block=4, confidence_threshold=None, order="left_to_right")
    assert _selected(rule, make_step, [0.25, 0.75, 0.5], 0, 8) == [0, 1]


def test_every_step_unmasks_one_at_least(make_step):
    rule = make_strategy("quota", steps_per_block=9, confidence_threshold=None)
    assert _selected(rule, make_step, [0.25, 0.75, 0.5], 6, 4) == [1]


def test_blocks_take_their_steps(dream):
    settings = {"max_new_tokens": 8, "block_length": 4, "stop_at_eos": False, "return_dict_in_generate": True}
    output = dream.generate(
        torch.tensor([[5, 6, 7]]), strategy="quota", steps_per_block=2, confidence_threshold=None, **settings
    )
    assert output.num_forward_passes.item() == 4
    assert torch.bincount(output.unmask_step[0, 3:]).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps_per_block": 0}, "`steps_per_block` must be an integer of at least 1, got 0"),
        ({"confidence_threshold": 1.5}, r"`confidence_threshold` must be a number in \[0, 1\], got 1.5"),
        ({"order": "entropy"}, "`order` must be one of token_probability, left_to_right, got 'entropy'"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("quota", **fields)
