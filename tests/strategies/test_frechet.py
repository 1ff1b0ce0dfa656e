from itertools import product

import pytest
import torch

from demask_hf import make_strategy


def _step(make_step, confidences, **kwargs):
    return make_step(
        [[1 - confidence, confidence, 0.0] for confidence in confidences], tokens=[1] * len(confidences), **kwargs
    )


def _selected(margin, step):
    return make_strategy("frechet", frechet_margin=margin).select(step).nonzero()[:, 1].tolist()


# By rank 15/16, 7/8, 3/4, 1/2: 1 minus what is missing so far, and again of the last one, in sixteenths.
# 16 - 1 - 1 = 14, 16 - 3 - 2 = 11, 16 - 7 - 4 = 5, 16 - 15 - 8 < 0.
CONFIDENCES = [0.875, 0.5, 0.9375, 0.75]


@pytest.mark.parametrize(
    ("sixteenths", "expected"),
    [(0, [0, 2, 3]), (4.9, [0, 2, 3]), (5, [0, 2]), (10.9, [0, 2]), (11, [2]), (14, [2]), (16, [2])],
)
def test_the_bound_lies_above_the_margin(make_step, sixteenths, expected):
    assert _selected(sixteenths / 16, _step(make_step, CONFIDENCES)) == expected


def test_what_is_unmasked_is_the_most_likely_combination(make_step):
    # Frechet's bounds hold for every joint distribution with these marginals.
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        step = _step(make_step, (1 - torch.rand(5, generator=generator) ** 3 / 2).tolist())
        chosen = [step.score("confidence")[column].item() for column in _selected(0.0, step)]
        least = 1 - sum(1 - confidence for confidence in chosen)
        combinations = product(*((confidence, 1 - confidence) for confidence in chosen))
        most_of_others = max(min(combination) for combination in list(combinations)[1:])
        assert len(chosen) == 1 or least > most_of_others


def test_certain_positions_go_together(make_step):
    assert _selected(0.9, _step(make_step, [1.0, 1.0, 0.75, 1.0])) == [0, 1, 3]


def test_ties_go_to_the_earlier_position(make_step):
    assert _selected(0.25, _step(make_step, [0.5, 0.75, 0.75])) == [1]


def test_confidence_is_that_of_the_token_to_be_written(make_step):
    step = make_step([[0.875, 0.125], [0.5, 0.5]], tokens=[1, 0])
    assert _selected(0.5, step) == [1]


def test_rows_are_independent(make_step):
    step = _step(
        make_step, [0.9375, 0.9375, 0.75, 0.5], candidates=[[True, True, False], [False, True, True], [False] * 3]
    )
    selected = make_strategy("frechet").select(step)
    assert selected.tolist() == [[True, True, False], [False, True, False], [False] * 3]


def test_forward_passes_by_hand(scripted):
    model = scripted([{5: 0.95}, {6: 0.5}, {7: 0.92}, {8: 0.55}])
    output = model.generate(torch.tensor([[9]]), max_new_tokens=4, strategy="frechet", return_dict_in_generate=True)
    # 1 - .13 - .08, but 1 - .58 - .45 with the third; 1 - .95 - .5 with the fourth.
    assert output.unmask_step.tolist() == [[-1, 0, 2, 0, 1]]
    assert output.num_forward_passes.tolist() == [3]


def test_the_end_of_the_sequence_closes_what_follows(scripted):
    model = scripted([{5: 0.99}, {2: 0.99}, {7: 0.5}, {8: 0.5}])
    output = model.generate(torch.tensor([[9]]), max_new_tokens=4, strategy="frechet", return_dict_in_generate=True)
    assert output.unmask_step.tolist() == [[-1, 0, 0, -1, -1]]


@pytest.mark.parametrize("margin", [-0.1, 1.1, float("nan"), "much"])
def test_margins_outside_the_interval_are_refused(margin):
    with pytest.raises(ValueError, match=r"`frechet_margin` must be a number in \[0, 1\], got"):
        make_strategy("frechet", frechet_margin=margin)
