import math

import pytest
import torch

from demask_hf import make_strategy


PROMPT = torch.tensor([[9]])


def _steps(model, **settings):
    known = {"max_new_tokens": 4, "stop_at_eos": False, "return_dict_in_generate": True, "strategy": "prophet"}
    return model.generate(PROMPT, **{**known, **settings}).unmask_step[0, 1:].tolist()


def test_everything_is_written_once_the_gap_is_large(scripted):
    # Of ten tokens the others share 1 - p: the gap is log(9 p / (1 - p)).
    model = scripted([{5: 0.9}, {6: 0.8}, {7: 0.7}, {8: 0.6}])
    gap = sum(math.log(9 * p / (1 - p)) for p in (0.9, 0.8, 0.7, 0.6)) / 4
    limits = {"early_gap": gap + 0.01, "middle_gap": gap + 0.01, "late_gap": gap - 0.01}
    assert _steps(model, **limits) == [0, 1, 2, 2]
    assert _steps(model, **{**limits, "middle_gap": gap - 0.01}) == [0, 1, 1, 1]
    assert _steps(model, **{**limits, "early_gap": gap - 0.01}) == [0, 0, 0, 0]
    # Masks of later blocks, too.
    assert _steps(model, **{**limits, "middle_gap": gap - 0.01}, block_length=2) == [0, 1, 1, 1]
    # The last position alone is less sure.
    assert _steps(model, **limits, answer_start=3) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"early_gap": -1}, "`early_gap` must be .*, got -1"),
        ({"answer_start": 0.5}, r"`answer_start` must be an integer, got 0\.5"),
        ({"answer_length": 0}, "`answer_length` must be .*, got 0"),
        ({"inner": 3}, "`inner` must be the name of another strategy, .*, got 3"),
        ({"inner": "prophet"}, "`inner` must be the name of another strategy, .*, got 'prophet'"),
        ({"inner": "best"}, "`strategy` must be a registered name, got 'best'"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("prophet", **fields)


def test_a_region_outside_is_refused(scripted):
    with pytest.raises(ValueError, match=r"`answer_start` must lie in the sequence, in \[-1, 4\), got 4"):
        _steps(scripted([{5: 0.9}]), answer_start=4)
