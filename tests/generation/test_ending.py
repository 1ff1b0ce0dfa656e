"""`eos_penalty`: positions that would end the answer wait for the others."""

import math

import pytest
import torch

import demask_hf
from demask_hf.strategies import make_strategy, strategy_names


MASK, EOS = 1, 2
PROMPT = torch.tensor([[3]])
# Four independent positions, of which the third is the surest and would end the answer.
ENDING = [{5: 0.6, 6: 0.3}, {7: 0.7, 8: 0.2}, {EOS: 0.9, 9: 0.05}, {4: 0.5, 5: 0.4}]
PROMPTS = torch.tensor([[0, 5, 6], [8, 9, 10], [12, 13, 14]])
REAL = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 1]])
ENDS = torch.tensor([2, 5, 7, 11, 13, 17])
ONE = {"strategy": "sequential", "max_new_tokens": 4, "return_dict_in_generate": True}


def steps(output) -> list[int]:
    return output.unmask_step[0, 1:].tolist()


def test_without_a_penalty_the_surest_position_ends_the_answer_first(scripted):
    output = scripted(ENDING).generate(PROMPT, **ONE)
    assert steps(output) == [2, 1, 0, -1]


def test_the_end_is_written_last_with_an_infinite_penalty(scripted):
    output = scripted(ENDING).generate(PROMPT, **ONE, eos_penalty=math.inf, stop_at_eos=False)
    assert output.sequences[0, 1:].tolist() == [5, 7, EOS, 4]
    assert steps(output) == [1, 0, 3, 2]


@pytest.mark.parametrize(
    ("penalty", "expected"), [(1.0, [2, 1, 0, 3]), (1.5, [2, 0, 1, 3]), (2.5, [1, 0, 3, 2]), (3.0, [1, 0, 3, 2])]
)
def test_a_finite_penalty_ranks_by_the_lowered_logit_and_waits_where_another_token_is_likelier(
    scripted, penalty, expected
):
    # 0.9 e^-a / (0.9 e^-a + 0.1) is .77, .67, .42 and .31; above log(0.9 / 0.05) = 2.89 another token is likelier.
    output = scripted(ENDING).generate(PROMPT, **ONE, eos_penalty=penalty, stop_at_eos=False)
    assert steps(output) == expected


def test_a_schedule_keeps_its_number_of_steps(scripted):
    settings = {"strategy": "schedule", "max_denoising_steps": 2, "stop_at_eos": False}
    output = scripted(ENDING).generate(PROMPT, **{**ONE, **settings}, eos_penalty=math.inf)
    # int(4 * 0.4995) positions in the first step, and all others in the second.
    assert steps(output) == [1, 0, 1, 1]
    assert output.num_forward_passes.item() == 2


def test_all_tokens_that_end_an_answer_wait(scripted):
    script = [{EOS: 0.99}, {9: 0.95}, {5: 0.4, 6: 0.3}]
    settings = {**ONE, "max_new_tokens": 3, "stop_at_eos": False, "eos_token_id": [EOS, 9]}
    assert steps(scripted(script).generate(PROMPT, **settings, eos_penalty=math.inf)) == [1, 2, 0]


@pytest.fixture
def ending_dream(make_dream, make_head):
    """Return a random Dream with a head that would end the answer at many positions."""
    model = make_dream(seed=3, eos_token_id=ENDS.tolist())
    model.set_demask_head(make_head(model))
    return model


@pytest.mark.parametrize("strategy", strategy_names())
def test_no_strategy_is_offered_an_end_beside_other_tokens(ending_dream, seeing, strategy):
    rule = seeing(make_strategy(strategy))
    ending_dream.generate(
        PROMPTS, REAL, strategy=rule, max_new_tokens=8, block_length=4, eos_penalty=math.inf, temperature=0.5, seed=0
    )
    num_mixed = num_waiting = 0
    for step in rule.steps:
        if step.in_block is not None:
            step = step.among(step.candidates & step.in_block)  # noqa: PLW2901
        is_end = torch.isin(step.tokens, ENDS)
        num_waiting += int(step.num_masked.sum()) - len(is_end)
        for row in step.rows.unique().tolist():
            ends = is_end[step.rows == row]
            is_last = bool(step.block_step_index[row] >= step.num_block_steps[row] - 1)
            if strategy == "schedule" and is_last:
                continue
            num_mixed += bool(ends.any()) and not bool(ends.all())
    assert num_waiting > 0
    assert num_mixed == 0


@pytest.mark.parametrize("penalty", [2.0, math.inf])
@pytest.mark.parametrize("strategy", strategy_names())
def test_a_row_of_a_batch_waits_as_alone(ending_dream, strategy, penalty):
    settings = {"strategy": strategy, "max_new_tokens": 8, "eos_penalty": penalty, "temperature": 0.5}
    settings |= {"return_dict_in_generate": True, "seed": 4}
    together = ending_dream.generate(PROMPTS, REAL, **settings)
    for row in range(3):
        first = int(REAL[row].argmax())
        alone = ending_dream.generate(PROMPTS[row : row + 1, first:], **settings)
        assert alone.sequences[0].tolist() == together.sequences[row, first:].tolist()
        assert alone.unmask_step[0].tolist() == together.unmask_step[row, first:].tolist()


def _reference(model, prompt, num_new, ends):
    """Decode as LLaDA's script with `confidence_eos_eot_inf` means to: the confidence of an end is the lowest."""
    ids = torch.cat([prompt, prompt.new_full((1, num_new), model.config.mask_token_id)], dim=1)
    for _ in range(num_new):
        logits = model(ids).logits[0]
        tokens = logits.index_fill(-1, torch.tensor([model.config.mask_token_id]), -math.inf).argmax(dim=-1)
        others = logits.index_fill(-1, ends, -math.inf).softmax(dim=-1)
        scores = others.gather(-1, tokens[:, None])[:, 0]
        is_open = ids[0] == model.config.mask_token_id
        if torch.isin(tokens[is_open], ends).all():
            scores = logits.softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
        best = scores.masked_fill(~is_open, -1.0).argmax()
        ids[0, best] = tokens[best]
    return ids


@pytest.mark.parametrize("seed", range(4))
def test_an_infinite_penalty_is_the_end_last_of_llada(seed):
    torch.manual_seed(seed)
    config = demask_hf.LLaDAConfig(
        vocab_size=24,
        d_model=32,
        n_heads=4,
        n_layers=2,
        mlp_hidden_size=48,
        max_sequence_length=64,
        mask_token_id=MASK,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.3,
    )
    model = demask_hf.LLaDAModelLM(config).eval()
    ends = torch.tensor([2, 5, 7, 11])
    prompt = torch.tensor([[3, 4, 8]])
    ours = model.generate(
        prompt,
        strategy="sequential",
        order="token_probability",
        max_new_tokens=8,
        eos_penalty=math.inf,
        eos_token_id=ends.tolist(),
        stop_at_eos=False,
    )
    assert torch.equal(ours, _reference(model, prompt, 8, ends))


def test_measured_dependencies_are_those_of_what_the_strategy_reads(scripted, seeing):
    # Independent positions: any dependency would come from comparing lowered with other distributions.
    model = scripted(ENDING)
    rule = seeing(make_strategy("demask", dependencies="exact", dependency_bound=0.0))
    output = model.generate(PROMPT, strategy=rule, max_new_tokens=4, eos_penalty=2.0, return_dict_in_generate=True)
    assert steps(output) == [0, 0, 0, -1]
    assert rule.steps[0].num_masked.item() == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eos_penalty": -1}, r"`eos_penalty` must be a number in \[0, inf\], got -1"),
        ({"eos_penalty": "last"}, r"`eos_penalty` must be a number in \[0, inf\], got 'last'"),
        ({"confidence_eos_eot_inf": True}, r"`confidence_eos_eot_inf` must be given as `eos_penalty=float\('inf'\)`"),
        ({"logits_eos_inf": True}, "`logits_eos_inf` must be given as `suppress_tokens` with the ids of the end"),
    ],
)
def test_wrong_values_and_other_names_are_refused(dream, arguments, message):
    with pytest.raises(ValueError, match=message):
        dream.generate(PROMPT, max_new_tokens=4, **arguments)


def test_a_model_without_an_end_has_nothing_to_penalise(scripted):
    model = scripted(ENDING)
    model.config.eos_token_id = None
    with pytest.raises(
        ValueError, match="`eos_penalty` must be 0 for a model without an end-of-sequence token, got 2"
    ):
        model.generate(PROMPT, **ONE, eos_penalty=2)
    assert not model.calls


def test_llada_flags_that_are_off_are_accepted(dream):
    dream.generate(PROMPT, max_new_tokens=4, logits_eos_inf=False, confidence_eos_eot_inf=False)
