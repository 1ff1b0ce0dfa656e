"""States that decoding visits, recorded from outside; the distributions that tokens are drawn from."""

import pytest
import torch

from demask_hf import Backbone, make_strategy, strategy_names
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.bound.visits import drawing_predictor, visit
from demask_hf.functional.sampling import Sampling, draw_tokens


PROMPTS = ["w5 w6 w7", "w8", "w9 w10"]
KWARGS = {"max_new_tokens": 6, "temperature": 1.0, "stop_at_eos": False}
RULE = make_strategy("demask", dependency_bound=0.6)


def _as_lists(states):
    return [(state.sequence.tolist(), state.candidates.tolist(), state.selected.tolist()) for state in states]


def test_states_are_those_of_generate(dream_with_wide_head, tokenizer):
    visited = visit(dream_with_wide_head, tokenizer, PROMPTS, RULE, seed=3, **KWARGS)
    for number, (prompt, states) in enumerate(zip(PROMPTS, visited, strict=True)):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        kwargs = {"strategy": "demask", "dependency_bound": 0.6, "seed": 3 + number, **KWARGS}
        output = dream_with_wide_head.generate(ids, output_history=True, return_dict_in_generate=True, **kwargs)
        assert [state.sequence.tolist() for state in states] == [before[0].tolist() for before in output.history[:-1]]
        for step, state in enumerate(states):
            assert sorted(state.candidates.tolist()) == (output.history[step][0] == 1).nonzero().squeeze(-1).tolist()
            assert sorted(state.selected.tolist()) == (output.unmask_step[0] == step).nonzero().squeeze(-1).tolist()


def test_positions_stand_in_the_order_of_the_walk(dream_with_wide_head, tokenizer):
    backbone = Backbone.of(dream_with_wide_head)
    for state in visit(dream_with_wide_head, tokenizer, PROMPTS[:1], RULE, **KWARGS)[0]:
        asked = torch.zeros_like(state.sequence, dtype=torch.bool)
        asked[state.candidates] = True
        found = (
            backbone.predict(PredictionRequest(state.sequence[None], asked[None], None))
            .logits.softmax(dim=-1)
            .max(dim=-1)
            .values
        )
        confidence = torch.zeros(len(asked)).masked_scatter(asked, found)
        assert (confidence[state.candidates].diff() <= 1e-5).all()
        assert [column for column in state.candidates.tolist() if column in state.selected] == state.selected.tolist()
        assert state.selected[0] == state.candidates[0]


def test_the_most_confident_positions_do_not_follow_the_order_of_the_walk(dream_with_wide_head, tokenizer):
    by_influence = make_strategy("demask", dependency_bound=0.6, order="influence")
    (states,) = visit(dream_with_wide_head, tokenizer, PROMPTS[:1], by_influence, **KWARGS)
    (first,) = visit(dream_with_wide_head, tokenizer, PROMPTS[:1], RULE, **KWARGS)
    # Both begin in the same state, where the walk by confidence gives the order.
    assert states[0].most_confident.tolist() == first[0].candidates[: len(states[0].selected)].tolist()
    assert states[0].candidates.tolist() != first[0].candidates.tolist()


def test_another_strategy_may_walk(dream_with_wide_head, tokenizer):
    walker = make_strategy("sequential", order="left_to_right")
    visited = visit(dream_with_wide_head, tokenizer, PROMPTS, RULE, walker, **KWARGS)
    assert [len(states) for states in visited] == [6, 6, 6]
    for states in visited:
        for step, state in enumerate(states):
            assert len(state.candidates) == 6 - step
    assert any(len(state.selected) > 1 for states in visited for state in states)


@pytest.mark.parametrize("name", strategy_names())
def test_every_strategy_may_walk(dream_with_wide_head, tokenizer, name):
    kwargs = {**KWARGS, "seed": 3, "max_new_tokens": 4}
    visited = visit(dream_with_wide_head, tokenizer, PROMPTS[:1], RULE, make_strategy(name), **kwargs)[0]
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    kwargs |= {"strategy": name, "output_history": True, "return_dict_in_generate": True}
    history = dream_with_wide_head.generate(ids, **kwargs).history
    # A strategy that remasks looks at states without masks, too.
    states = [before[0].tolist() for before in history[:-1] if (before == 1).any()]
    assert [state.sequence.tolist() for state in visited] == states


def test_a_row_of_a_batch_is_the_row_alone(dream_with_wide_head, tokenizer):
    together = visit(dream_with_wide_head, tokenizer, PROMPTS, RULE, seed=7, **KWARGS)
    for row, prompt in enumerate(PROMPTS):
        (alone,) = visit(dream_with_wide_head, tokenizer, [prompt], RULE, seed=7 + row, **KWARGS)
        assert _as_lists(alone) == _as_lists(together[row])


def test_blocks_limit_the_candidates(dream_with_wide_head, tokenizer):
    (states,) = visit(dream_with_wide_head, tokenizer, PROMPTS[:1], RULE, block_length=2, **KWARGS)
    assert all(len(state.candidates) <= 2 for state in states)
    assert len(states) >= 3


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.7}, {"top_k": 2}])
def test_the_drawn_distribution_is_that_of_the_loop(filters):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, generator=generator).double()
    sampling = Sampling(temperature=0.8, **filters)
    expected = sampling.drawn(logits, 1).double()
    noise = (torch.arange(20_000).double() + 0.5) / 20_000
    for row in range(2):
        probabilities = sampling.drawn(logits[row : row + 1], 1).repeat(20_000, 1)
        tokens = draw_tokens(logits[row : row + 1].repeat(20_000, 1), probabilities, 1, noise)
        shares = torch.bincount(tokens, minlength=5) / 20_000
        assert torch.allclose(shares.double(), expected[row], atol=1e-3)
    assert (expected[:, 1] == 0).all()
    assert torch.allclose(expected.sum(dim=-1), torch.ones(2).double(), atol=1e-6)


def test_the_drawn_distribution_falls_back_where_the_filters_leave_the_mask_token_only():
    logits = torch.tensor([[0.0, 9.0, 1.0]])
    assert Sampling(top_k=1).drawn(logits, 1).tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("fields", "kwargs", "message"),
    [
        ({}, {"temperature": 0.0}, "`temperature` must be above 0 to measure total variation, got 0: at 0 all"),
        ({}, {"do_sample": False, "temperature": 1.0}, "`temperature` must be above 0 to measure total variation"),
        ({"order": "token_probability"}, {"temperature": 1.0}, "`order` must not be 'token_probability' to measure"),
    ],
)
def test_where_the_bound_is_void_nothing_is_measured(dream_with_wide_head, fields, kwargs, message):
    with pytest.raises(ValueError, match=message):
        drawing_predictor(dream_with_wide_head, make_strategy("demask", **fields), kwargs)


def test_predictions_are_those_that_generate_draws_from(dream_with_wide_head):
    backbone = Backbone.of(dream_with_wide_head)
    predictor = drawing_predictor(dream_with_wide_head, RULE, {"temperature": 0.5, "top_k": 3})
    sequence, asked = torch.tensor([[5, 1, 1]]), torch.tensor([[False, True, True]])
    found = predictor.probe(sequence, torch.zeros(1, dtype=torch.long), asked)
    logits = backbone.predict(PredictionRequest(sequence, asked, None)).logits
    assert torch.equal(found, Sampling(temperature=0.5, top_k=3).drawn(logits, 1))
    assert ((found > 0).sum(dim=-1) <= 3).all()
