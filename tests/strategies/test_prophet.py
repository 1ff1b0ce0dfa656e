import math
from dataclasses import dataclass

import pytest
import torch

from demask_hf import make_strategy
from demask_hf.strategies import Decision, SequentialStrategy, base


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


@pytest.mark.parametrize("gap", [3.0, 5.0, 7.0])
@pytest.mark.parametrize("name", ["lossless", "freedave"])
def test_with_drafts_it_leaves_where_it_would_without(dream_with_head, name, gap):
    limits = {"early_gap": gap + 2, "middle_gap": gap, "late_gap": gap - 2, "block_length": 4}
    known = {"max_new_tokens": 12, "stop_at_eos": False, "return_dict_in_generate": True, "strategy": "prophet"}
    prompts = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    one, several = (
        dream_with_head.generate(prompts, **known, **limits, inner=inner) for inner in ("sequential", name)
    )
    assert several.sequences.tolist() == one.sequences.tolist()
    assert (several.num_forward_passes <= one.num_forward_passes).all()
    assert several.num_forward_passes.sum() < one.num_forward_passes.sum()


def test_tokens_that_the_other_strategy_chooses_are_written(scripted, monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))

    @base.register_strategy("threes")
    @dataclass
    class Threes(SequentialStrategy):
        def select(self, step):
            return Decision(super().select(step), torch.full_like(step.sequences, 3))

    model = scripted([{5: 0.9}, {6: 0.8}, {7: 0.7}, {8: 0.6}])
    settings = {"max_new_tokens": 4, "stop_at_eos": False, "strategy": "prophet", "inner": "threes"}
    assert model.generate(PROMPT, **settings, early_gap=9.0, middle_gap=0.0).tolist() == [[9, 3, 3, 7, 8]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"early_gap": -1}, "`early_gap` must be .*, got -1"),
        ({"answer_start": 0.5}, r"`answer_start` must be an integer, got 0\.5"),
        ({"answer_length": 0}, "`answer_length` must be .*, got 0"),
        ({"inner": 3}, "`inner` must be the name of another strategy, .*, got 3"),
        ({"inner": "prophet"}, "`inner` must be the name of another strategy, .*, got 'prophet'"),
        ({"inner": "best"}, "`strategy` must be a registered name, got 'best'"),
        ({"inner": "t2m"}, "`inner` must be a strategy that does not remask, got 't2m'"),
        ({"inner": "wino"}, "`inner` must be a strategy that does not remask, got 'wino'"),
        ({"inner": "edit"}, "`inner` must be a strategy that does not remask, got 'edit'"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("prophet", **fields)


def test_a_region_outside_is_refused(scripted):
    with pytest.raises(ValueError, match=r"`answer_start` must lie in the sequence, in \[-1, 4\), got 4"):
        _steps(scripted([{5: 0.9}]), answer_start=4)
