import pytest
import torch

from demask_hf import make_strategy


def test_a_threshold_may_move_on_to_less_than_a_step_writes(scripted):
    model = scripted([{5: 0.95}, {6: 0.92}, {7: 0.6}, {8: 0.5}])
    settings = {"max_new_tokens": 4, "return_dict_in_generate": True, "strategy": "freedave"}
    output = model.generate(torch.tensor([[9]]), confidence_threshold=0.9, **settings)
    # Two are confident; the next one is drafted, verified, and the last follows from it.
    assert output.unmask_step.tolist() == [[-1, 0, 0, 1, 1]]
    assert output.num_row_forwards.tolist() == [3]
    output = model.generate(torch.tensor([[9]]), order="left_to_right", num_versions=2, **settings)
    assert output.unmask_step.tolist() == [[-1, 0, 1, 1, 2]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_versions": 0}, "`num_versions` must be .*, got 0"),
        ({"confidence_threshold": 2}, r"`confidence_threshold` must be a number in \[0, 1\], got 2"),
        ({"order": "margin"}, "`order` must be one of confidence, left_to_right, got 'margin'"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("freedave", **fields)
