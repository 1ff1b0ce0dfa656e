import pytest
import torch

from demask_hf import make_strategy
from demask_hf.strategies.sequential import ORDERS


# Four positions over three tokens. Confidence is best at 2, entropy at 0, margin at 1.
PROBABILITIES = [[0.59, 0.405, 0.005], [0.6, 0.2, 0.2], [0.61, 0.37, 0.02], [0.4, 0.3, 0.3]]


@pytest.mark.parametrize(
    ("score", "expected"), [("confidence", 2), ("entropy", 0), ("margin", 1), ("left_to_right", 0)]
)
def test_the_one_position_of_highest_score_is_unmasked(make_step, score, expected):
    selected = make_strategy("sequential", order=score).select(make_step(PROBABILITIES))
    assert selected.nonzero().tolist() == [[0, expected]]


def test_left_to_right_starts_at_the_first_candidate(make_step):
    step = make_step(PROBABILITIES[:2], candidates=[[False, True, False, True]])
    assert make_strategy("sequential", order="left_to_right").select(step).nonzero().tolist() == [[0, 1]]


def test_token_probability_looks_at_the_drawn_token(make_step):
    step = make_step(PROBABILITIES, tokens=[1, 1, 2, 0])
    assert make_strategy("sequential", order="token_probability").select(step).nonzero().tolist() == [[0, 0]]
    assert make_strategy("sequential").select(step).nonzero().tolist() == [[0, 2]]


def test_random_order_follows_the_seed_and_takes_every_position_alike(make_step):
    batch, size = 3000, 4
    step = make_step(
        torch.full((batch * size, 3), 1 / 3), candidates=torch.ones(batch, size), seeds=torch.arange(batch)
    )
    strategy = make_strategy("sequential", order="random")
    selected = strategy.select(step)
    assert (selected.sum(dim=-1) == 1).all()
    assert torch.equal(selected, strategy.select(step))
    # Four standard errors of a share of 1/4 are 0.032.
    assert (selected.float().mean(dim=0) - 0.25).abs().max() < 0.032


def test_one_forward_pass_per_token(scripted):
    model = scripted([{5: 0.6}, {6: 0.9}, {7: 0.7}, {8: 0.8}])
    output = model.generate(torch.tensor([[9]]), max_new_tokens=4, strategy="sequential", return_dict_in_generate=True)
    assert output.sequences.tolist() == [[9, 5, 6, 7, 8]]
    assert output.unmask_step.tolist() == [[-1, 3, 0, 2, 1]]
    assert output.num_forward_passes.tolist() == [4]
    assert output.tokens_per_forward.tolist() == [1.0]


@pytest.mark.parametrize("score", ["left_to_right", "random"])
def test_order_without_confidence(scripted, score):
    model = scripted([{5: 0.6}, {6: 0.9}, {7: 0.7}, {8: 0.8}])
    output = model.generate(
        torch.tensor([[9]]), max_new_tokens=4, strategy="sequential", order=score, seed=0, return_dict_in_generate=True
    )
    assert sorted(output.unmask_step[0, 1:].tolist()) == [0, 1, 2, 3]
    if score == "left_to_right":
        assert output.unmask_step[0, 1:].tolist() == [0, 1, 2, 3]


def test_an_unknown_score_is_refused():
    message = rf"`order` must be one of {', '.join(ORDERS)}, got 'luck'\."
    with pytest.raises(ValueError, match=message):
        make_strategy("sequential", order="luck")
