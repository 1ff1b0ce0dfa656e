import pytest
import torch

from demask_hf import make_strategy
from demask_hf.strategies import Review, Shadows


def _decide(make_step, strategy, masked, kept, block_step=1):
    """Decide on a row of masked positions with these probabilities, then written ones with those of their shadows."""
    count = len(masked) + len(kept)
    candidates = torch.arange(count)[None] < len(masked)
    shadows = torch.zeros(1, count)
    shadows[0, len(masked) :] = torch.tensor(kept)
    probabilities = torch.tensor([[0.0, 0.0, 0.0, each, 1 - each] for each in masked])
    step = make_step(
        probabilities,
        candidates,
        tokens=[3] * len(masked),
        written=~candidates,
        block_step_index=torch.tensor([block_step]),
        review=Review(shadows, torch.zeros_like(candidates).long(), shadows),
    )
    decision = strategy.select(step)
    return [mask.nonzero()[:, 1].tolist() for mask in (decision.selected, decision.remasked)]


def test_everything_above_the_threshold_is_written_up_to_a_cap(make_step):
    assert _decide(make_step, make_strategy("wino"), [0.7, 0.5, 0.65], [])[0] == [0, 2]
    assert _decide(make_step, make_strategy("wino"), [0.2, 0.5, 0.3], [])[0] == [1]
    # Of ten masks seven are written at most, and of four all: the cap is five at least and twenty at most.
    assert len(_decide(make_step, make_strategy("wino"), [0.9] * 10, [])[0]) == 7
    assert len(_decide(make_step, make_strategy("wino"), [0.9] * 4, [])[0]) == 4
    assert len(_decide(make_step, make_strategy("wino"), [0.9] * 50, [])[0]) == 20


def test_only_d2cache_writes_at_the_threshold_itself(make_step):
    assert _decide(make_step, make_strategy("wino", confidence_threshold=0.5), [0.5, 0.75], [])[0] == [1]
    fields = {"confidence_threshold": 0.5, "form": "d2cache"}
    assert _decide(make_step, make_strategy("wino", **fields), [0.5, 0.75], [])[0] == [0, 1]


def test_nothing_is_taken_back_where_one_position_is_written(make_step):
    assert _decide(make_step, make_strategy("wino"), [0.9, 0.1], [0.1, 0.1]) == [[0], []]
    assert _decide(make_step, make_strategy("wino"), [0.9, 0.8], [0.1, 0.95], block_step=0) == [[0, 1], [2]]


def test_fewer_are_taken_back_than_were_written_in_the_step_before(make_step):
    strategy = make_strategy("wino")
    _decide(make_step, strategy, [0.9] * 3, [])
    # Three are as many as were written in the step before, so the two least likely ones go.
    assert _decide(make_step, strategy, [0.9, 0.9], [0.3, 0.1, 0.2, 0.95])[1] == [3, 4]
    assert _decide(make_step, strategy, [0.9, 0.9], [0.3, 0.95])[1] == [2]


def test_d2cache_takes_back_fewer_than_it_writes_now(make_step):
    strategy = make_strategy("wino", form="d2cache")
    assert _decide(make_step, strategy, [0.9, 0.9], [0.3, 0.1, 0.2])[1] == [3]
    assert _decide(make_step, strategy, [0.9, 0.9, 0.9], [0.3, 0.1, 0.2])[1] == [4, 5]


def test_shadows_stand_where_the_form_says():
    assert Shadows(is_aligned=True) in make_strategy("wino").needs
    assert Shadows(is_aligned=False) in make_strategy("wino", form="authors").needs


def test_only_the_current_block_is_verified(dream):
    output = dream.generate(
        torch.tensor([[5, 6]]),
        strategy="wino",
        confidence_threshold=0.3,
        max_new_tokens=16,
        block_length=8,
        stop_at_eos=False,
        output_history=True,
        return_dict_in_generate=True,
    )
    assert output.num_remasked.any()
    is_done = [bool((each[0, 2:10] != 1).all()) for each in output.history]
    first = is_done.index(True)
    assert all(is_done[first:])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"confidence_threshold": 1.5}, r"`confidence_threshold` must be a number in \[0, 1\], got 1\.5\."),
        ({"verification_threshold": -1}, r"`verification_threshold` must be a number in \[0, 1\], got -1\."),
        ({"form": "best"}, "`form` must be one of aligned, authors, d2cache, got 'best'"),
    ],
)
def test_limits_outside_their_interval_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("wino", **fields)
