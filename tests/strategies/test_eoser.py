import pytest
import torch

from demask_hf import make_strategy


PROMPT = torch.tensor([[9]])
EOS = 2
# The surest position ends the answer.
SCRIPT = [{5: 0.5}, {EOS: 0.9}, {7: 0.7}, {8: 0.6}]


def _steps(model, **fields):
    output = model.generate(
        PROMPT, max_new_tokens=4, stop_at_eos=False, return_dict_in_generate=True, strategy="eoser", **fields
    )
    return output.unmask_step[0, 1:].tolist()


def test_the_end_is_written_when_its_factor_has_risen(scripted):
    # .9 times .4, .6, .8 and 1: below .7, .6 and .5 in the first two steps, above .5 in the third.
    assert _steps(scripted(SCRIPT)) == [3, 2, 0, 1]
    assert _steps(scripted(SCRIPT), start=1.0) == [3, 0, 1, 2]
    assert _steps(scripted(SCRIPT), start=0.0, end=0.0) == [2, 3, 0, 1]


def test_a_block_begins_again(scripted):
    # Two steps a block, four in all: the factors are .4 and .6 in each.
    assert _steps(scripted(SCRIPT), block_length=2) == [0, 1, 2, 3]
    assert _steps(scripted(SCRIPT), block_length=2, start=0.7) == [1, 0, 2, 3]


def test_step_sizes_double(scripted):
    # 1, and the rest; the factor is .01 + .99 / 4 at first.
    assert _steps(scripted(SCRIPT), plan="ass", start=0.01, max_denoising_steps=2) == [1, 1, 0, 1]
    assert _steps(scripted(SCRIPT), plan="ass", max_denoising_steps=3, start=1.0) == [2, 0, 1, 1]


def test_a_model_without_an_end_has_no_factor(scripted):
    model = scripted(SCRIPT)
    model.config.eos_token_id = None
    assert _steps(model) == [3, 0, 1, 2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start": 1.1}, r"`start` must be a number in \[0, 1\], got 1\.1"),
        ({"end": -0.1}, r"`end` must be a number in \[0, 1\], got -0\.1"),
        ({"algorithm": "entropy"}, "`algorithm` must be one of maskgit_plus, topk_margin, got 'entropy'"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("eoser", **fields)
