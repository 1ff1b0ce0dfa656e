import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    pipeline,
)
from transformers.utils import ModelOutput

import demask_hf
from demask_hf import (
    DemaskGenerationConfig,
    DemaskGenerationMixin,
    DemaskGenerationOutput,
    make_strategy,
    strategy_names,
)
from demask_hf.generation import limits


PAD, MASK, EOS = 0, 1, 2
PROMPT = torch.tensor([[9]])
# Four positions that the sequential strategy writes in the order 1, 3, 2, 0, and the threshold of .9 in three steps.
SCRIPT = [{5: 0.5}, {6: 0.95}, {7: 0.6}, {8: 0.92}]


def _decode(model, ids=PROMPT, **kwargs):
    kwargs.setdefault("max_new_tokens", 4)
    kwargs.setdefault("strategy", "sequential")
    return model.generate(ids, return_dict_in_generate=True, **kwargs)


def _answer(script):
    """Return the likeliest tokens of a script."""
    return [max(distribution, key=distribution.get) for distribution in script]


# Counting


def test_forward_passes_and_tokens_per_forward_by_hand(scripted):
    output = _decode(scripted(SCRIPT), strategy="threshold", confidence_threshold=0.9)
    assert output.sequences.tolist() == [[9, 5, 6, 7, 8]]
    assert output.unmask_step.tolist() == [[-1, 2, 0, 1, 0]]
    assert output.num_forward_passes.tolist() == [3]
    assert output.tokens_per_forward.tolist() == pytest.approx([4 / 3])
    assert output.num_probe_passes.tolist() == [0]


def test_every_forward_pass_is_a_call_of_the_model(scripted):
    model = scripted(SCRIPT)
    output = _decode(model)
    assert len(model.calls) == output.num_forward_passes.item() == 4
    assert [(call == MASK).sum().item() for call in model.calls] == [4, 3, 2, 1]


def test_predictions_follow_what_is_already_written(scripted):
    def script(position, context):
        # Each position copies the word before it plus one as soon as that is known, and is unsure before.
        before = context[position - 1]
        return {before + 1: 0.95} if before != MASK else {3: 0.4}

    output = _decode(scripted(script), torch.tensor([[4]]), strategy="threshold")
    assert output.sequences.tolist() == [[4, 5, 6, 7, 8]]
    assert output.unmask_step.tolist() == [[-1, 0, 1, 2, 3]]


def test_output_types_and_shapes(dream):
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    output = _decode(dream, ids, max_new_tokens=4)
    assert isinstance(output, DemaskGenerationOutput)
    assert output.sequences.shape == output.unmask_step.shape == (2, 7)
    assert output.sequences.dtype == output.unmask_step.dtype == torch.long
    for name in ("num_forward_passes", "num_probe_passes", "tokens_per_forward", "uncovered_mass"):
        assert getattr(output, name).shape == (2,)
    assert output.history is None
    assert torch.equal(dream.generate(ids, max_new_tokens=4, strategy="sequential"), output.sequences)


def test_the_model_is_left_as_it_was(make_dream):
    model = make_dream()
    settings, is_training = copy.deepcopy(model.generation_config), model.training
    config = DemaskGenerationConfig(max_new_tokens=4, strategy="threshold")
    before = copy.deepcopy(config)
    ids = torch.tensor([[5, 6]])
    model.generate(ids, generation_config=config, top_k=3, confidence_threshold=0.5)
    assert model.generation_config == settings
    assert config == before
    assert model.training == is_training
    assert ids.tolist() == [[5, 6]]


def test_no_gradients_are_kept(dream):
    assert not _decode(dream).tokens_per_forward.requires_grad


# End of sequence


def _ended(order, tokens):
    """Return a script whose position k is written in step `order[k]` by the sequential strategy."""
    return [{token: 0.95 - 0.05 * step} for step, token in zip(order, tokens, strict=True)]


def test_positions_after_a_written_eos_are_never_asked_again(scripted):
    model = scripted(_ended([1, 2, 0, 3, 4], [5, 6, EOS, 7, 8]))
    output = _decode(model, max_new_tokens=5)
    assert output.sequences.tolist() == [[9, 5, 6, EOS, PAD, PAD]]
    assert output.unmask_step.tolist() == [[-1, 1, 2, 0, -1, -1]]
    assert output.num_forward_passes.tolist() == [3]
    assert output.tokens_per_forward.tolist() == [1.0]


def test_input_keeps_what_lies_after_the_eos(scripted):
    # Position 4 is written first; then an EOS at position 2, and the row goes on with positions 0 and 1.
    model = scripted(_ended([2, 3, 1, 4, 0], [5, 6, EOS, 7, 8]))
    output = _decode(model, max_new_tokens=5)
    assert [call[0].tolist() for call in model.calls] == [
        [9, MASK, MASK, MASK, MASK, MASK],
        [9, MASK, MASK, MASK, MASK, 8],
        [9, MASK, MASK, EOS, MASK, 8],
        [9, 5, MASK, EOS, MASK, 8],
    ]
    assert output.sequences.tolist() == [[9, 5, 6, EOS, PAD, PAD]]
    assert output.unmask_step.tolist() == [[-1, 2, 3, 1, -1, -1]]
    assert output.num_forward_passes.tolist() == [4]
    # Three tokens are kept, the one written after the EOS is not counted.
    assert output.tokens_per_forward.tolist() == [0.75]


def test_a_later_eos_further_left_ends_the_row_earlier(scripted):
    model = scripted(_ended([2, 1, 4, 0, 5], [5, EOS, 6, EOS, 7]))
    output = _decode(model, max_new_tokens=5)
    assert model.calls[2][0].tolist() == [9, MASK, EOS, MASK, EOS, MASK]
    assert output.sequences.tolist() == [[9, 5, EOS, PAD, PAD, PAD]]
    assert output.unmask_step.tolist() == [[-1, 2, 1, -1, -1, -1]]
    assert output.num_forward_passes.tolist() == [3]
    assert output.tokens_per_forward.tolist() == pytest.approx([2 / 3])


def test_several_end_tokens(scripted):
    script = _ended([1, 0, 2], [5, 8, 6])
    assert _decode(scripted(script), max_new_tokens=3).sequences.tolist() == [[9, 5, 8, 6]]
    output = _decode(scripted(script), max_new_tokens=3, eos_token_id=[EOS, 8])
    assert output.sequences.tolist() == [[9, 5, 8, PAD]]
    assert output.num_forward_passes.tolist() == [2]


def test_end_tokens_of_the_model_config_may_be_a_list(scripted):
    model = scripted(_ended([1, 0, 2], [5, 8, 6]))
    model.config.eos_token_id = [EOS, 8]
    assert _decode(model, max_new_tokens=3).sequences.tolist() == [[9, 5, 8, PAD]]


def test_an_eos_in_the_prompt_ends_nothing(scripted):
    model = scripted(SCRIPT, prompt_length=2)
    assert _decode(model, torch.tensor([[EOS, 9]])).sequences.tolist() == [[EOS, 9, 5, 6, 7, 8]]


def test_eos_everywhere_in_one_step(scripted):
    output = _decode(scripted([{EOS: 0.99}] * 4), strategy="threshold")
    assert output.sequences.tolist() == [[9, EOS, PAD, PAD, PAD]]
    assert output.unmask_step.tolist() == [[-1, 0, -1, -1, -1]]
    assert output.num_forward_passes.tolist() == [1]
    assert output.tokens_per_forward.tolist() == [1.0]


def test_tokens_are_counted_by_position_where_pad_is_eos(scripted):
    script = _ended([1, 0, 2], [5, EOS, 6])
    output = _decode(scripted(script), max_new_tokens=3, pad_token_id=EOS)
    assert output.sequences.tolist() == [[9, 5, EOS, EOS]]
    assert output.unmask_step.tolist() == [[-1, 1, 0, -1]]
    assert output.tokens_per_forward.tolist() == [1.0]


def test_without_stopping_every_position_is_decoded(scripted):
    model = scripted(_ended([1, 2, 0, 3, 4], [5, 6, EOS, 7, 8]))
    output = _decode(model, max_new_tokens=5, stop_at_eos=False)
    assert output.sequences.tolist() == [[9, 5, 6, EOS, 7, 8]]
    assert output.unmask_step.tolist() == [[-1, 1, 2, 0, 3, 4]]
    assert output.num_forward_passes.tolist() == [5]


def test_without_eos_token_nothing_stops(scripted):
    model = scripted(SCRIPT)
    model.config.eos_token_id = model.config.pad_token_id = None
    assert _decode(model).sequences.tolist() == [[9, 5, 6, 7, 8]]


def test_pad_defaults_to_the_first_eos(scripted):
    model = scripted(_ended([1, 0, 2], [5, 8, 6]))
    model.config.pad_token_id = None
    assert _decode(model, max_new_tokens=3, eos_token_id=[8, 4]).sequences.tolist() == [[9, 5, 8, 8]]


def test_sequences_are_as_wide_as_prompt_and_answer_however_early_all_rows_end(scripted):
    model = scripted(lambda position, context: {EOS: 0.9})
    output = _decode(model, torch.tensor([[9, 9], [9, 8]]), max_new_tokens=6)
    assert output.sequences.shape == (2, 8)


def test_finished_rows_stop_counting_and_leave_the_forward(scripted):
    def script(position, context):
        # A row that begins with 4 ends at once, others never.
        return {EOS: 0.9 - 0.1 * position} if context[0] == 4 else {5: 0.9 - 0.1 * position}

    model = scripted(script)
    output = _decode(model, torch.tensor([[3], [4], [3]]))
    assert output.num_forward_passes.tolist() == [4, 1, 4]
    assert output.sequences.tolist() == [[3, 5, 5, 5, 5], [4, EOS, PAD, PAD, PAD], [3, 5, 5, 5, 5]]
    assert [call.shape[0] for call in model.calls] == [3, 2, 2, 2]
    assert output.tokens_per_forward.tolist() == [1.0, 1.0, 1.0]


def test_rows_of_an_eos_batch_equal_rows_alone(make_dream):
    model = make_dream(sharpness=25.0)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13], [14, 15, 16], [17, 18, 19]])
    # Frequent tokens as ends, so that rows end at different places.
    ends = model.generate(ids, max_new_tokens=12, strategy="threshold", stop_at_eos=False)[:, 3:]
    eos = [ends[0, 4].item(), ends[1, 8].item()]
    together = _decode(model, ids, max_new_tokens=12, strategy="threshold", eos_token_id=eos)
    assert together.num_forward_passes.unique().numel() > 1
    assert (together.sequences == PAD).any()
    for row in range(5):
        alone = _decode(model, ids[[row]], max_new_tokens=12, strategy="threshold", eos_token_id=eos)
        for name in ("sequences", "unmask_step", "num_forward_passes", "tokens_per_forward"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[row])


# Blocks and steps


def test_blocks_are_decoded_from_left_to_right(scripted):
    output = _decode(scripted(SCRIPT), block_length=2)
    assert output.unmask_step.tolist() == [[-1, 1, 0, 3, 2]]


def test_a_step_never_leaves_its_block(scripted):
    model = scripted([{5: 0.99}] * 6)
    for block_length, expected in ((1, [0, 1, 2, 3, 4, 5]), (2, [0, 0, 1, 1, 2, 2]), (3, [0, 0, 0, 1, 1, 1])):
        output = _decode(model, max_new_tokens=6, block_length=block_length, strategy="threshold")
        assert output.unmask_step[0, 1:].tolist() == expected
        assert output.num_forward_passes.tolist() == [6 // block_length]


def test_rows_can_be_in_different_blocks(scripted):
    def script(position, context):
        return {5: 0.95} if context[0] == 4 else {5: 0.6 + 0.01 * position}

    output = _decode(scripted(script), torch.tensor([[4], [3]]), block_length=2, strategy="threshold")
    assert output.unmask_step.tolist() == [[-1, 0, 0, 1, 1], [-1, 1, 0, 3, 2]]
    assert output.num_forward_passes.tolist() == [2, 4]


def test_blocks_after_the_end_are_not_decoded(scripted):
    model = scripted(_ended([0, 1, 2, 3], [5, EOS, 6, 7]))
    output = _decode(model, block_length=2)
    assert output.sequences.tolist() == [[9, 5, EOS, PAD, PAD]]
    assert len(model.calls) == 2


def test_a_cap_writes_the_rest_at_once(scripted):
    output = _decode(scripted(SCRIPT), max_denoising_steps=3)
    assert output.unmask_step.tolist() == [[-1, 2, 0, 2, 1]]
    assert output.num_forward_passes.tolist() == [3]
    assert _decode(scripted(SCRIPT), max_denoising_steps=1).unmask_step.tolist() == [[-1, 0, 0, 0, 0]]
    assert _decode(scripted(SCRIPT), max_denoising_steps=9).num_forward_passes.tolist() == [4]


def test_a_cap_reaches_over_blocks(scripted):
    output = _decode(scripted(SCRIPT), max_denoising_steps=3, block_length=2)
    assert output.unmask_step.tolist() == [[-1, 1, 0, 2, 2]]


def test_a_cap_counts_the_steps_of_each_row(scripted):
    def script(position, context):
        return {5: 0.95} if context[0] == 4 else {5: 0.6 + 0.01 * position}

    output = _decode(scripted(script), torch.tensor([[4], [3]]), max_denoising_steps=2, strategy="threshold")
    assert output.unmask_step.tolist() == [[-1, 0, 0, 0, 0], [-1, 1, 1, 1, 0]]


HUB_SCHEDULE = {"alg": "entropy", "steps": 2, "eps": 0.001, "mask_token_id": None}


def test_steps_of_an_inherited_schedule_count_for_a_schedule_only(make_dream):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig.from_dict(HUB_SCHEDULE)
    ids = torch.tensor([[5, 6]])
    kwargs = {"max_new_tokens": 4, "return_dict_in_generate": True, "stop_at_eos": False}
    assert model.generate(ids, **kwargs).num_forward_passes.tolist() == [2]
    assert model.generate(ids, strategy="schedule", **kwargs).num_forward_passes.tolist() == [2]
    assert model.generate(ids, strategy="sequential", **kwargs).num_forward_passes.tolist() == [4]
    config = DemaskGenerationConfig(strategy="sequential")
    assert model.generate(ids, generation_config=config, **kwargs).num_forward_passes.tolist() == [4]


def test_hub_settings_run_the_samplers_they_name(make_dream):
    model = make_dream()
    hub = {"alg": "origin", "alg_temp": None, "steps": 9, "eps": 0.001, "temperature": 0.0, "mask_token_id": None}
    model.generation_config = DemaskGenerationConfig.from_dict(hub)
    ids, kwargs = torch.tensor([[5, 6]]), {"max_new_tokens": 12, "return_dict_in_generate": True, "seed": 4}
    named = {"strategy": "schedule", "algorithm": "origin", "max_denoising_steps": 9}
    expected = make_dream().generate(ids, **named, **kwargs)
    assert torch.equal(model.generate(ids, **kwargs).unmask_step, expected.unmask_step)
    # Several positions a step, at other steps for another seed.
    assert expected.num_forward_passes.item() <= 9
    other = model.generate(ids, **{**kwargs, "seed": 5})
    assert not torch.equal(other.unmask_step, expected.unmask_step)


@pytest.mark.parametrize("way", ["keyword", "config", "config-and-keyword"])
def test_steps_given_explicitly_are_a_cap_even_beside_an_inherited_schedule(make_dream, way):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig.from_dict(HUB_SCHEDULE)
    given = {
        "keyword": {"strategy": "sequential", "max_denoising_steps": 3},
        "config": {"generation_config": DemaskGenerationConfig(strategy="sequential", max_denoising_steps=3)},
        "config-and-keyword": {
            "strategy": "sequential",
            "generation_config": DemaskGenerationConfig(max_denoising_steps=3),
        },
    }[way]
    output = model.generate(
        torch.tensor([[5, 6]]), max_new_tokens=4, return_dict_in_generate=True, stop_at_eos=False, **given
    )
    assert output.num_forward_passes.tolist() == [3]


# Sampling


def _first_tokens(model, num_rows, **kwargs):
    """Sample one token in each of many rows with seeds of their own; return the share of each token."""
    ids = torch.full((num_rows, 1), 9)
    output = model.generate(ids, max_new_tokens=1, strategy="sequential", seed=list(range(num_rows)), **kwargs)
    return torch.bincount(output[:, 1], minlength=10) / num_rows


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"temperature": 1.0}, {3: 0.6, 4: 0.3, 5: 0.1}),
        # At temperature 0.5 the weights are squared: .36, .09, .01.
        ({"temperature": 0.5}, {3: 36 / 46, 4: 9 / 46, 5: 1 / 46}),
        ({"temperature": 1.0, "top_k": 2}, {3: 2 / 3, 4: 1 / 3}),
        ({"temperature": 1.0, "top_p": 0.5}, {3: 1.0}),
        ({"temperature": 0.0}, {3: 1.0}),
        ({}, {3: 1.0}),
        ({"temperature": 1.0, "do_sample": False}, {3: 1.0}),
        ({"temperature": 1.0, "do_sample": True}, {3: 0.6, 4: 0.3, 5: 0.1}),
    ],
)
def test_tokens_are_drawn_from_the_filtered_distribution(scripted, kwargs, expected):
    shares = _first_tokens(scripted([{3: 0.6, 4: 0.3, 5: 0.1}]), 1500, **kwargs)
    full = torch.zeros(10)
    for token, share in expected.items():
        full[token] = share
    # Four standard errors of a share of 1/2 over 1,500 rows are 0.052.
    assert (shares - full).abs().max() < 0.052
    assert (shares[full == 0] == 0).all()


def test_the_mask_token_is_never_written(scripted):
    model = scripted([{MASK: 0.9, 3: 0.075, 4: 0.025}])
    shares = _first_tokens(model, 1500, temperature=1.0)
    assert shares[MASK] == 0
    assert (shares[3] - 0.75).abs() < 0.05
    for kwargs in ({}, {"temperature": 1.0, "top_k": 1}, {"temperature": 1.0, "top_p": 0.5}):
        assert model.generate(PROMPT, max_new_tokens=1, strategy="sequential", seed=0, **kwargs).tolist() == [[9, 3]]


def test_scores_include_the_mask_token(scripted):
    # Without the mask token position 0 would be the more confident one, with .8 / .85 against .9.
    output = _decode(scripted([{3: 0.8, MASK: 0.15}, {4: 0.9}]), max_new_tokens=2)
    assert output.unmask_step.tolist() == [[-1, 1, 0]]
    output = _decode(scripted([{3: 0.88, MASK: 0.12}] * 3), max_new_tokens=3, strategy="threshold")
    assert output.num_forward_passes.tolist() == [3]


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 0.3}])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_filters_apply_before_sampled_scores_at_every_temperature(scripted, filters, temperature):
    script = [{3: 0.5, 4: 0.3, 5: 0.2}] * 4
    kwargs = {"temperature": temperature, "strategy": "threshold", "seed": 0}
    assert _decode(scripted(script), top_k=0, **kwargs).num_forward_passes.tolist() == [4]
    assert _decode(scripted(script), **filters, **kwargs).num_forward_passes.tolist() == [4]
    kwargs["scores"] = "sampled"
    assert _decode(scripted(script), top_k=0, **kwargs).num_forward_passes.tolist() == [4]
    assert _decode(scripted(script), **filters, **kwargs).num_forward_passes.tolist() == [1]


def test_there_is_no_silent_top_k(scripted):
    # Token 3 has one half, 196 others share the rest unevenly; among the 50 best tokens it would have about .7.
    weights = {token: 200 - token for token in range(4, 200)}
    script = {3: 0.5, **{token: 0.5 * weight / sum(weights.values()) for token, weight in weights.items()}}
    model, kwargs = scripted([script] * 2, vocab_size=200), {"strategy": "threshold", "confidence_threshold": 0.6}
    kwargs["scores"] = "sampled"
    assert _decode(model, max_new_tokens=2, **kwargs).num_forward_passes.tolist() == [2]
    assert _decode(model, max_new_tokens=2, top_k=50, **kwargs).num_forward_passes.tolist() == [1]


def test_temperature_changes_sampled_scores_only(scripted):
    # The entropy is .67 nats; at temperature .25 the weights are .1296 and .0256, an entropy of .45.
    model, kwargs = scripted([{3: 0.6, 4: 0.4}] * 2), {"strategy": "entropy_bound", "entropy_bound": 0.5}
    assert _decode(model, max_new_tokens=2, **kwargs).num_forward_passes.tolist() == [2]
    assert _decode(model, max_new_tokens=2, temperature=0.25, **kwargs).num_forward_passes.tolist() == [2]
    kwargs["scores"] = "sampled"
    assert _decode(model, max_new_tokens=2, temperature=0.25, **kwargs).num_forward_passes.tolist() == [1]


@pytest.mark.parametrize("name", [name for name in strategy_names() if name not in ("schedule", "eoser")])
def test_as_the_temperature_goes_to_zero_decoding_goes_to_that_of_zero(dream_with_head, name):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    kwargs = {"strategy": name, "max_new_tokens": 12, "return_dict_in_generate": True, "seed": 0}
    expected = dream_with_head.generate(ids, **kwargs)
    for temperature in (1e-2, 1e-4, 1e-6):
        found = dream_with_head.generate(ids, temperature=temperature, top_p=0.9, **kwargs)
        assert torch.equal(found.sequences, expected.sequences)
        assert torch.equal(found.unmask_step, expected.unmask_step)


def test_the_scores_of_a_schedule_are_those_of_the_public_sampler(scripted):
    # Tempered, all are as certain as the second position, and ties go to the left.
    model = scripted([{3: 0.7, 4: 0.3}, {5: 0.99, 6: 0.01}, {3: 0.6, 4: 0.4}, {3: 0.6, 4: 0.4}])
    kwargs = {"strategy": "schedule", "max_denoising_steps": 2, "max_new_tokens": 4, "temperature": 1e-3, "seed": 0}
    assert _decode(model, **kwargs).unmask_step.tolist() == [[-1, 0, 1, 1, 1]]
    assert _decode(model, scores="sampled", **kwargs).unmask_step.tolist() == [[-1, 0, 1, 1, 1]]
    assert _decode(model, scores="model", **kwargs).unmask_step.tolist() == [[-1, 1, 0, 1, 1]]


def test_sampling_with_temperature_zero_is_an_error(dream):
    for kwargs in ({"temperature": 0.0}, {"temperature": 0}):
        with pytest.raises(ValueError, match=r"`temperature` must be above 0 with `do_sample=True`, got 0"):
            dream.generate(PROMPT, max_new_tokens=2, do_sample=True, **kwargs)


def _sample(model, ids, **kwargs):
    settings = {"max_new_tokens": 6, "strategy": "threshold", "temperature": 2.0, "stop_at_eos": False}
    return model.generate(ids, **settings, **kwargs)


IDS = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])


def test_one_seed_serves_all_rows(dream):
    same = IDS[[0, 0, 1]]
    sampled = _sample(dream, same, seed=7)
    assert torch.equal(sampled, _sample(dream, same, seed=[7, 7, 7]))
    assert torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled, _sample(dream, same, seed=8))


def test_noise_does_not_depend_on_the_batch(dream):
    together = _sample(dream, IDS, seed=[3, 4, 5])
    shuffled = _sample(dream, IDS[[2, 0, 1]], seed=[5, 3, 4])
    assert torch.equal(shuffled, together[[2, 0, 1]])
    for row in range(3):
        assert torch.equal(_sample(dream, IDS[[row]], seed=3 + row)[0], together[row])


def test_noise_does_not_depend_on_padding(dream):
    padded = torch.cat([torch.zeros(3, 2, dtype=torch.long), IDS], dim=1)
    attention_mask = (torch.arange(5) >= 2).long().expand(3, -1)
    sampled = _sample(dream, padded, attention_mask=attention_mask, seed=[3, 4, 5])
    assert torch.equal(sampled[:, 2:], _sample(dream, IDS, seed=[3, 4, 5]))


def test_noise_does_not_depend_on_finished_rows(scripted):
    def script(position, context):
        return {EOS: 1.0} if context[0] == 4 else {3: 0.4, 5: 0.3, 6: 0.3}

    model = scripted(script)
    kwargs = {"strategy": "sequential", "max_new_tokens": 6, "temperature": 1.0}
    together = model.generate(torch.tensor([[4], [3], [4]]), seed=[1, 2, 3], **kwargs)
    alone = model.generate(torch.tensor([[3]]), seed=2, **kwargs)
    assert torch.equal(together[1], alone[0])


def test_steps_and_positions_have_noise_of_their_own(scripted):
    model = scripted([{3: 0.5, 4: 0.5}] * 4)
    samples = {tuple(_sample(model, PROMPT, seed=seed)[0].tolist()) for seed in range(60)}
    assert len(samples) > 12


def test_without_seed_the_global_generator_decides(dream):
    torch.manual_seed(0)
    first, second = _sample(dream, IDS), _sample(dream, IDS)
    torch.manual_seed(0)
    again = _sample(dream, IDS)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_a_generator_gives_the_rows_their_seeds(dream):
    samples = [_sample(dream, IDS[[0, 0, 0]], generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    assert samples[0].unique(dim=0).shape[0] > 1


def test_negative_and_large_seeds_are_seeds(dream):
    for seed in (-1, -(2**63), 2**63 - 1):
        assert torch.equal(_sample(dream, IDS, seed=seed), _sample(dream, IDS, seed=seed))


# Logits processors and stopping criteria


def test_logits_processors_run_once_a_step_on_the_candidates(scripted):
    model, calls = scripted(SCRIPT, vocab_size=12), []

    def record(ids, scores):
        calls.append((ids.clone(), scores.clone()))
        return scores

    processors = LogitsProcessorList([record])
    _decode(model, torch.tensor([[9], [8]]), temperature=0.5, top_k=2, seed=0, logits_processor=processors)
    assert [(tuple(ids.shape), tuple(scores.shape)) for ids, scores in calls] == [
        ((count, 5), (count, 12)) for count in (8, 6, 4, 2)
    ]
    for (ids, _), call in zip(calls, model.calls, strict=True):
        count = ids.shape[0] // 2
        assert torch.equal(ids, call.repeat_interleave(count, dim=0))
    # Scores come before temperature and filters.
    torch.testing.assert_close(calls[0][1][0], model.distribution(1, (9,)).log())


def test_logits_processors_change_tokens_and_scores(scripted):
    def forbid(ids, scores):
        scores = scores.clone()
        scores[:, 6] = float("-inf")
        return scores

    script = [{5: 0.6}, {6: 0.9, 7: 0.1}, {5: 0.7}]
    output = _decode(scripted(script), max_new_tokens=3, logits_processor=LogitsProcessorList([forbid]))
    assert output.sequences.tolist() == [[9, 5, 7, 5]]
    # All that is left of position 1 is token 7, which is therefore certain.
    assert output.unmask_step.tolist() == [[-1, 2, 0, 1]]


def test_logits_processors_see_no_finished_rows(scripted):
    model, sizes = scripted(lambda position, context: {EOS: 0.9} if context[0] == 4 else {5: 0.9}), []

    def record(ids, scores):
        sizes.append(ids.shape[0])
        return scores

    _decode(model, torch.tensor([[4], [3]]), logits_processor=LogitsProcessorList([record]))
    # In the first step both rows; the row of the EOS was written from the left and ended.
    assert sizes == [8, 3, 2, 1]


def test_stopping_criteria_end_a_row_without_masks(scripted):
    # Written from the right: the text grows only when the first position is written, then all at once.
    model = scripted(_ended([3, 2, 1, 0], [5, 6, 7, 8]))
    output = _decode(model, stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(3)]))
    assert output.sequences.tolist() == [[9, 5, 6, PAD, PAD]]
    assert output.unmask_step.tolist() == [[-1, 3, 2, -1, -1]]
    assert output.num_forward_passes.tolist() == [4]
    assert output.tokens_per_forward.tolist() == [0.5]


def test_stopping_criteria_save_forward_passes(scripted):
    model = scripted(_ended([0, 1, 2, 3], [5, 6, 7, 8]))
    output = _decode(model, stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(3)]))
    assert output.sequences.tolist() == [[9, 5, 6, PAD, PAD]]
    assert output.num_forward_passes.tolist() == [2]
    assert len(model.calls) == 2


def test_stopping_criteria_see_the_text_token_by_token(scripted):
    seen = []

    def record(ids, scores):
        seen.append(ids[0].tolist())
        return torch.zeros(1, dtype=torch.bool)

    _decode(scripted(_ended([2, 0, 1, 3], [5, 6, 7, 8])), stopping_criteria=StoppingCriteriaList([record]))
    assert seen == [[9, 5], [9, 5, 6], [9, 5, 6, 7], [9, 5, 6, 7, 8]]


def test_stopping_criteria_do_not_see_beyond_the_eos(scripted):
    seen = []

    def record(ids, scores):
        seen.append(ids[0].tolist())
        return torch.zeros(1, dtype=torch.bool)

    script = [{5: 0.99}, {EOS: 0.99}, {6: 0.99}, {7: 0.99}]
    _decode(scripted(script), strategy="threshold", stopping_criteria=StoppingCriteriaList([record]))
    assert seen == [[9, 5], [9, 5, EOS]]


def test_stopped_rows_leave_the_others_alone(scripted):
    def stop_at_six(ids, scores):
        return ids[:, -1] == 6

    def script(position, context):
        return {6 if context[0] == 4 and position == 2 else 5: 0.9 - 0.1 * position}

    model = scripted(script)
    output = _decode(model, torch.tensor([[4], [3]]), stopping_criteria=StoppingCriteriaList([stop_at_six]))
    assert output.sequences.tolist() == [[4, 5, 6, PAD, PAD], [3, 5, 5, 5, 5]]
    assert output.num_forward_passes.tolist() == [2, 4]


@pytest.mark.parametrize("way", ["criterion", "text", "list", "config"])
def test_stop_strings(scripted, spelling, way):
    prompt, answer = spelling("Q:")["input_ids"], spelling("a. b")["input_ids"]
    model = scripted([{token: 0.9 - 0.1 * k} for k, token in enumerate(answer)], 2, vocab_size=len(spelling))
    given = {
        "criterion": {"stopping_criteria": StoppingCriteriaList([StopStringCriteria(spelling, [". "])])},
        "text": {"stop_strings": ". ", "tokenizer": spelling},
        "list": {"stop_strings": ["x", ". "], "tokenizer": spelling},
        "config": {"generation_config": GenerationConfig(stop_strings=[". "]), "tokenizer": spelling},
    }[way]
    ids = model.generate(torch.tensor([prompt]), max_new_tokens=4, strategy="sequential", **given)
    assert spelling.decode(ids[0]) == "Q:a. <pad>"


def test_stop_strings_of_padded_rows_that_are_written_in_any_order(scripted, spelling):
    prompts = spelling(["ab", "c"], padding=True, return_tensors="pt")
    dot = spelling(".")["input_ids"][0]

    def script(position, context):
        return {dot if position == 3 else 40 + position: 0.5 + 0.05 * position}

    model = scripted(script, vocab_size=len(spelling))
    ids = model.generate(**prompts, max_new_tokens=5, strategy="sequential", stop_strings=".", tokenizer=spelling)
    assert [row.index(dot) for row in ids.tolist()] == [3, 4]
    assert (ids[0, 4:] == PAD).all()
    assert (ids[1, 5:] == PAD).all()


def test_stopping_needs_no_eos_token(scripted):
    model = scripted(_ended([0, 1, 2, 3], [5, 6, 7, 8]))
    model.config.eos_token_id = None
    criteria = StoppingCriteriaList([MaxLengthCriteria(3)])
    assert _decode(model, stopping_criteria=criteria).sequences.tolist() == [[9, 5, 6, PAD, PAD]]


def test_stopping_without_any_padding_token_is_refused_in_a_sentence(scripted):
    model = scripted(SCRIPT)
    model.config.eos_token_id = model.config.pad_token_id = None
    with pytest.raises(ValueError, match="`pad_token_id` must"):
        _decode(model, stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(3)]))


def test_stopping_criteria_never_change_visible_tokens_of_the_prompt(scripted):
    model = scripted(lambda position, context: {5: 0.9 - 0.1 * position})
    ids = torch.tensor([[9, MASK, 8, 7]])
    criteria = StoppingCriteriaList([MaxLengthCriteria(2)])
    output = _decode(model, ids, max_new_tokens=2, stopping_criteria=criteria)
    assert output.sequences[0, :4].tolist() == [9, 5, 8, 7]
    assert not (output.sequences == MASK).any()


def test_plain_lists_of_processors_and_criteria_are_accepted_as_in_transformers(scripted):
    output = _decode(
        scripted(_ended([0, 1, 2, 3], [5, 6, 7, 8])),
        logits_processor=[lambda ids, scores: scores.index_fill(-1, torch.tensor([5]), float("-inf"))],
        stopping_criteria=[MaxLengthCriteria(3)],
    )
    assert output.sequences[0, 1] != 5
    assert output.sequences[0, 3:].tolist() == [PAD, PAD]


# Infilling


def test_masks_in_the_prompt_are_filled_in_place(scripted):
    model = scripted(lambda position, context: {3 + position: 0.9 - 0.1 * position})
    output = _decode(model, torch.tensor([[9, MASK, 8, MASK, 7]]), max_new_tokens=0)
    assert output.sequences.tolist() == [[9, 4, 8, 6, 7]]
    assert output.unmask_step.tolist() == [[-1, 0, -1, 1, -1]]
    assert output.num_forward_passes.tolist() == [2]
    assert output.tokens_per_forward.tolist() == [1.0]


def test_filling_and_continuing_together(scripted):
    model = scripted(lambda position, context: {3 + position: 0.9 - 0.1 * position})
    output = _decode(model, torch.tensor([[9, MASK, 8]]), max_new_tokens=2)
    assert output.sequences.tolist() == [[9, 4, 8, 6, 7]]
    assert output.unmask_step.tolist() == [[-1, 0, -1, 1, 2]]


def test_an_eos_filled_into_the_prompt_ends_nothing(scripted):
    model = scripted(lambda position, context: {EOS if position == 1 else 5: 0.9 - 0.1 * position})
    output = _decode(model, torch.tensor([[9, MASK, MASK, 8]]), max_new_tokens=2)
    assert output.sequences.tolist() == [[9, EOS, 5, 8, 5, 5]]


def test_an_eos_of_the_continuation_leaves_the_prompt_to_be_filled(scripted):
    # The EOS at position 3 comes first, then the mask at position 1.
    model = scripted(lambda position, context: {3: {EOS: 0.9}, 1: {5: 0.8}}.get(position, {5: 0.6}))
    output = _decode(model, torch.tensor([[9, MASK, 8]]), max_new_tokens=3)
    assert output.sequences.tolist() == [[9, 5, 8, EOS, PAD, PAD]]
    assert output.unmask_step.tolist() == [[-1, 1, -1, 0, -1, -1]]


def test_masks_of_the_prompt_belong_to_the_first_block(scripted):
    model = scripted(lambda position, context: {5: 0.99})
    output = _decode(model, torch.tensor([[9, MASK, 8]]), max_new_tokens=4, block_length=2, strategy="threshold")
    assert output.unmask_step.tolist() == [[-1, 0, -1, 0, 0, 1, 1]]


@pytest.mark.parametrize("strategy", ["sequential", "schedule", "threshold", "entropy_bound", "klass"])
def test_rows_of_an_infilling_batch_may_have_nothing_to_fill(scripted, strategy):
    model = scripted(lambda position, context: {5: 0.9 - 0.1 * position})
    ids = torch.tensor([[9, 8, 7], [9, MASK, MASK]])
    output = _decode(model, ids, max_new_tokens=0, strategy=strategy)
    assert output.sequences.tolist() == [[9, 8, 7], [9, 5, 5]]
    assert output.num_forward_passes[0] == 0
    assert output.tokens_per_forward[0] == 0
    assert (output.unmask_step[0] == -1).all()


def test_padding_that_is_the_mask_token_is_not_filled(scripted):
    model = scripted(lambda position, context: {5: 0.9})
    ids, attention_mask = torch.tensor([[MASK, MASK, 9]]), torch.tensor([[0, 0, 1]])
    output = _decode(model, ids, attention_mask=attention_mask, max_new_tokens=1)
    assert output.sequences.tolist() == [[MASK, MASK, 9, 5]]
    assert output.num_forward_passes.tolist() == [1]


# History


def test_history_shows_every_step(scripted):
    output = _decode(scripted(SCRIPT), output_history=True)
    m = MASK
    assert [sequences.tolist()[0] for sequences in output.history] == [
        [9, m, m, m, m],
        [9, m, 6, m, m],
        [9, m, 6, m, 8],
        [9, m, 6, 7, 8],
        [9, 5, 6, 7, 8],
    ]


def test_history_agrees_with_the_steps(dream):
    output = _decode(dream, IDS, max_new_tokens=6, strategy="threshold", output_history=True)
    assert len(output.history) == output.num_forward_passes.max().item() + 1
    for step, (before, after) in enumerate(zip(output.history, output.history[1:], strict=False)):
        is_kept = output.unmask_step >= 0
        assert torch.equal((before != after) & is_kept, output.unmask_step == step)


# Padding


@pytest.mark.parametrize("strategy", ["sequential", "threshold", "klass"])
def test_left_padded_rows_equal_rows_alone(dream, strategy):
    rows = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
    ids = torch.tensor([[PAD] * (5 - len(row)) + row for row in rows])
    attention_mask = torch.tensor([[0] * (5 - len(row)) + [1] * len(row) for row in rows])
    together = _decode(dream, ids, attention_mask=attention_mask, max_new_tokens=8, strategy=strategy)
    for index, row in enumerate(rows):
        alone = _decode(dream, torch.tensor([row]), max_new_tokens=8, strategy=strategy)
        assert torch.equal(together.sequences[index, 5 - len(row) :], alone.sequences[0])
        assert torch.equal(together.unmask_step[index, 5 - len(row) :], alone.unmask_step[0])
        assert together.num_forward_passes[index] == alone.num_forward_passes[0]


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float32])
def test_attention_masks_of_any_kind(dream, dtype):
    ids = torch.tensor([[PAD, 5, 6]])
    expected = dream.generate(ids, torch.tensor([[0, 1, 1]]), max_new_tokens=3)
    assert torch.equal(dream.generate(ids, torch.tensor([[0, 1, 1]]).to(dtype), max_new_tokens=3), expected)


def test_no_attention_mask_is_inferred_from_the_padding_token(dream):
    ids = torch.tensor([[PAD, PAD, 5, 6]])
    kwargs = {"max_new_tokens": 6, "return_dict_in_generate": True}
    plain = dream.generate(ids, **kwargs)
    attended = dream.generate(ids, torch.ones_like(ids), **kwargs)
    padded = dream.generate(ids, torch.tensor([[0, 0, 1, 1]]), **kwargs)
    assert torch.equal(plain.sequences, attended.sequences)
    assert not torch.equal(plain.sequences[0, 4:], padded.sequences[0, 4:])


# Where settings come from


def test_length_of_the_answer(scripted):
    model = scripted(lambda position, context: {5: 0.9})
    assert model.generate(PROMPT, max_length=3, strategy="threshold").shape == (1, 3)
    assert model.generate(PROMPT, max_length=9, max_new_tokens=3, strategy="threshold").shape == (1, 4)
    config = DemaskGenerationConfig(max_length=5)
    assert model.generate(PROMPT, generation_config=config).shape == (1, 5)
    assert model.generate(PROMPT, generation_config=config, max_new_tokens=1).shape == (1, 2)
    assert model.generate(PROMPT, strategy="threshold", max_denoising_steps=2).shape == (1, 257)


def test_keywords_come_before_the_given_config_before_that_of_the_model(make_dream):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig(max_new_tokens=7, strategy="sequential", stop_at_eos=False)
    ids = torch.tensor([[5, 6]])
    config = DemaskGenerationConfig(max_new_tokens=5)
    assert model.generate(ids).shape == (1, 9)
    assert model.generate(ids, generation_config=config).shape == (1, 7)
    assert model.generate(ids, generation_config=config, max_new_tokens=3).shape == (1, 5)
    # What a config does not set comes from the model's: the strategy and the end of sequence.
    output = model.generate(ids, generation_config=config, return_dict_in_generate=True)
    assert output.num_forward_passes.tolist() == [5]


def test_the_generic_config_of_transformers_is_accepted(dream):
    config = GenerationConfig(max_new_tokens=3, num_beams=1, top_k=50)
    assert dream.generate(PROMPT, generation_config=config).shape == (1, 4)


@pytest.mark.parametrize(
    "strategy",
    ["threshold", {"name": "threshold", "factor": None}, make_strategy("threshold", confidence_threshold=0.1)],
    ids=["name", "dict", "object"],
)
def test_fields_of_a_strategy_are_keywords(scripted, strategy):
    output = _decode(scripted(SCRIPT), strategy=strategy, confidence_threshold=0.55)
    assert output.unmask_step.tolist() == [[-1, 1, 0, 0, 0]]


def test_fields_change_the_strategy_of_the_config(make_dream):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig(strategy="sequential", max_new_tokens=4, stop_at_eos=False)
    output = model.generate(PROMPT, order="left_to_right", return_dict_in_generate=True)
    assert output.unmask_step.tolist() == [[-1, 0, 1, 2, 3]]


def test_default_strategy_is_the_threshold_without_a_head_and_demask_with_one(make_dream, make_head):
    model = make_dream()
    ids, kwargs = torch.tensor([[5, 6]]), {"max_new_tokens": 6, "return_dict_in_generate": True}
    without = model.generate(ids, **kwargs)
    assert torch.equal(without.unmask_step, model.generate(ids, strategy="threshold", **kwargs).unmask_step)
    # Below everything that the head predicts, the bound keeps one position a step; the threshold is not asked.
    model.set_demask_head(make_head(model))
    output = model.generate(ids, dependency_bound=0.0, stop_at_eos=False, **kwargs)
    assert output.num_forward_passes.tolist() == [6]


def test_a_strategy_assigned_to_the_models_generation_config_is_used(make_dream):
    model = make_dream()
    for strategy in ("sequential", make_strategy("sequential")):
        model.generation_config.strategy = strategy
        output = model.generate(PROMPT, max_new_tokens=3, stop_at_eos=False, return_dict_in_generate=True)
        assert output.num_forward_passes.tolist() == [3]


def test_special_tokens_given_as_keywords_come_before_those_of_the_model(scripted):
    model = scripted(_ended([1, 0, 2], [5, 8, 6]))
    output = _decode(model, max_new_tokens=3, eos_token_id=8, pad_token_id=7)
    assert output.sequences.tolist() == [[9, 5, 8, 7]]
    output = _decode(model, torch.tensor([[9, 4]]), max_new_tokens=0, mask_token_id=4)
    assert output.sequences.tolist() == [[9, 5]]


def test_mask_token_of_the_generation_config_serves_where_the_model_names_none(scripted):
    model = scripted(SCRIPT)
    model.config.mask_token_id = None
    model.__dict__.pop("_demask_mask_token_id", None)
    config = DemaskGenerationConfig(mask_token_id=MASK)
    assert _decode(model, generation_config=config).sequences.tolist() == [[9, 5, 6, 7, 8]]


def test_settings_saved_with_a_model_are_used_after_loading(make_dream, tmp_path):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig(max_new_tokens=4, strategy="sequential", stop_at_eos=False)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    output = loaded.generate(PROMPT, return_dict_in_generate=True)
    assert output.num_forward_passes.tolist() == [4]


# Attaching, heads, and the ways of transformers


class Embedding(nn.Module):
    """A model of somebody else: logits from the token before, nothing more."""

    def __init__(self, mask_token_id=None):
        super().__init__()
        self.embedding = nn.Embedding(10, 10)
        self.config = SimpleNamespace(vocab_size=10, mask_token_id=mask_token_id)

    def forward(self, input_ids, attention_mask=None, position_ids=None, output_hidden_states=False):
        return ModelOutput(logits=self.embedding(input_ids))

    def own(self):
        return "kept"


def test_attach_gives_a_foreign_model_our_generate():
    model = Embedding()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attached = demask_hf.attach(model, mask_token_id=MASK, logits_shift=1)
    assert attached is model
    assert isinstance(model, Embedding)
    assert isinstance(model, DemaskGenerationMixin)
    assert type(model).__name__ == "Embedding"
    assert model.own() == "kept"
    assert model.state_dict().keys() == weights.keys()
    output = model.generate(torch.tensor([[5]]), max_new_tokens=4, strategy="sequential", order="left_to_right")
    # With the shift each token follows from the one before it.
    expected = [5]
    for _ in range(4):
        logits = model.embedding.weight[expected[-1]].clone()
        logits[MASK] = float("-inf")
        expected.append(logits.argmax().item())
    assert output.tolist() == [expected]


def test_attach_serves_masked_models_of_transformers():
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    model = BertForMaskedLM(BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=32)).eval()
    demask_hf.attach(model, mask_token_id=MASK)
    ids, attention_mask = torch.tensor([[PAD, 5, 6], [7, 8, 9]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    output = _decode(model, ids, attention_mask=attention_mask, strategy="demask", dependencies="exact")
    assert not (output.sequences == MASK).any()
    # The first step writes what the model's own logits say at the masked positions themselves.
    masked = torch.nn.functional.pad(ids[[1]], (0, 4), value=MASK)
    logits = model(masked).logits[0, 3:].index_fill(-1, torch.tensor([MASK]), float("-inf"))
    is_first = output.unmask_step[1, 3:] == 0
    assert torch.equal(output.sequences[1, 3:][is_first], logits.argmax(dim=-1)[is_first])


def test_attach_twice_is_attach_once(dream):
    before = type(dream)
    assert demask_hf.attach(dream) is dream
    assert type(dream) is before


def test_attach_takes_a_head(make_dream, make_head):
    model = make_dream()
    head = make_head(model)
    assert demask_hf.attach(model, head).demask_head is head


def test_attach_refuses_what_cannot_work(make_dream, make_head):
    with pytest.raises(ValueError, match=r"`mask_token_id` must be known to decode by unmasking, got None"):
        demask_hf.attach(Embedding())
    with pytest.raises(ValueError, match=r"`mask_token_id` must be in \[0, 10\), got 99\."):
        demask_hf.attach(Embedding(), mask_token_id=99)
    with pytest.raises(ValueError, match=r"`logits_shift` must be 0 or 1, got 2\."):
        demask_hf.attach(Embedding(), mask_token_id=MASK, logits_shift=2)
    with pytest.raises(TypeError, match=r"`head` must be a DemaskHead, got Linear\."):
        demask_hf.attach(make_dream(), nn.Linear(2, 2))
    model = make_dream()
    with pytest.raises(
        ValueError, match="`head` must be made for this backbone, got a head with backbone_hidden_size"
    ):
        demask_hf.attach(make_dream(hidden_size=64), make_head(model))
    with pytest.raises(ValueError, match=r"got a head with logits_shift 1 for a model with 0\."):
        demask_hf.attach(make_dream(), make_head(model), logits_shift=0)


def test_head_is_no_part_of_the_model(make_dream, make_head, tmp_path):
    model = make_dream()
    before = set(model.state_dict()), sum(1 for _ in model.parameters()), set(dict(model.named_modules()))
    model.set_demask_head(make_head(model))
    after = set(model.state_dict()), sum(1 for _ in model.parameters()), set(dict(model.named_modules()))
    assert after == before
    model.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).demask_head is None
    model.set_demask_head(None)
    assert model.demask_head is None


def test_head_is_no_target_of_peft(make_dream, make_head):
    peft = pytest.importorskip("peft", reason="needs peft")
    model = make_dream()
    model.set_demask_head(make_head(model))
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    names = [name for name, _ in adapted.named_parameters() if "lora" in name]
    assert names
    assert all("layers" in name for name in names)
    ids = torch.tensor([[5, 6]])
    assert adapted.generate(input_ids=ids, max_new_tokens=3, strategy="demask").shape == (1, 5)


def test_attach_changes_a_peft_model_inside(make_dream, make_head):
    peft = pytest.importorskip("peft", reason="needs peft")
    model = make_dream()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    head = make_head(model)
    assert demask_hf.attach(adapted, head) is adapted
    assert isinstance(adapted, peft.PeftModel)
    assert model.demask_head is head


def test_load_demask_head(make_dream, make_head, tmp_path):
    model = make_dream()
    head = make_head(model)
    head.save_pretrained(tmp_path)
    loaded = model.load_demask_head(tmp_path)
    assert model.demask_head is loaded
    assert not loaded.training
    ids = torch.tensor([[5, 6]])
    first = _decode(model, ids, strategy="demask", max_new_tokens=8)
    model.set_demask_head(head)
    assert torch.equal(first.unmask_step, _decode(model, ids, strategy="demask", max_new_tokens=8).unmask_step)
    assert model.load_demask_head(str(tmp_path), dtype=torch.bfloat16).dtype == torch.bfloat16
    assert _decode(model, ids, strategy="demask").num_forward_passes.item() >= 1


def test_a_head_for_another_model_is_refused_when_it_is_loaded(make_dream, make_head, tmp_path):
    make_head(make_dream(hidden_size=64)).save_pretrained(tmp_path)
    model = make_dream()
    message = r"`head` must be made for this backbone, got a head with backbone_hidden_size 64 for a model with 32\."
    with pytest.raises(ValueError, match=message):
        model.load_demask_head(tmp_path)
    assert model.demask_head is None


def test_half_precision_model_with_single_precision_head(make_dream, make_head):
    model = make_dream()
    head = make_head(model)
    model = model.bfloat16()
    model.set_demask_head(head)
    assert _decode(model, torch.tensor([[5, 6]]), strategy="demask").sequences.shape == (1, 6)


def test_output_embedding_is_computed_for_candidates_only(make_dream, make_head):
    model, shapes = make_dream(), []
    model.set_demask_head(make_head(model))
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[:-1].numel()))
    output = _decode(model, IDS, max_new_tokens=6, strategy="demask", block_length=3, output_history=True)
    # Never more than the masked positions of three rows' blocks.
    assert shapes[0] == 9
    assert max(shapes) <= 9
    assert len(shapes) == output.num_forward_passes.max().item()


def test_model_calls_itself_able_to_generate(dream):
    assert dream.can_generate()


def test_text_generation_pipeline(make_dream, tokenizer):
    model = make_dream()
    generate = pipeline("text-generation", model=model, tokenizer=tokenizer)
    (result,) = generate("w5 w6", max_new_tokens=4, do_sample=False, return_full_text=False)
    assert isinstance(result["generated_text"], str)


def test_custom_generate_of_transformers_is_served(make_dream, tmp_path):
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text(
        "def generate(model, input_ids, **kwargs):\n    return input_ids + kwargs['offset']\n"
    )
    model = make_dream()
    ids = torch.tensor([[5, 6]])
    result = model.generate(input_ids=ids, custom_generate=str(tmp_path), trust_remote_code=True, offset=3)
    assert result.tolist() == [[8, 9]]


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answers(make_dream, make_head):
    model = make_dream(sharpness=25.0).double()
    head = make_head(model)
    model.set_demask_head(head)
    expected = [_decode(model, IDS, strategy="demask", seed=3, temperature=t, max_new_tokens=8) for t in (0.0, 1.0)]
    model.cuda()
    for temperature, reference in zip((0.0, 1.0), expected, strict=True):
        output = _decode(model, IDS, strategy="demask", seed=3, temperature=temperature, max_new_tokens=8)
        assert output.sequences.device.type == "cuda"
        assert head.device.type == "cuda"
        assert output.sequences.tolist() == reference.sequences.tolist()
        assert output.unmask_step.tolist() == reference.unmask_step.tolist()


# Bad input, each with its sentence


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"input_ids": torch.zeros(1, 0).long()},
            r"`input_ids` must have shape \(batch, prompt_length\) .*\(1, 0\)\.",
        ),
        ({"input_ids": torch.tensor([5, 6])}, r"`input_ids` must have shape \(batch, prompt_length\) .*got \(2,\)\."),
        ({"max_new_tokens": 0}, r"`max_new_tokens` must be at least 1 for a prompt without mask tokens, got 0\."),
        ({"max_new_tokens": -2}, r"`max_new_tokens` must be an integer of at least 0, got -2\."),
        ({"max_new_tokens": None, "max_length": 2}, r"`max_length` must be at least the length of the prompt \(3\)"),
        ({"max_new_tokens": None, "max_length": 3}, r"`max_\w+` must be .* for a prompt without mask tokens"),
        ({"block_length": 3}, r"`block_length` must divide `max_new_tokens` \(4\), got 3\."),
        ({"block_length": 8}, r"`block_length` must divide `max_new_tokens` \(4\), got 8\."),
        ({"block_length": 0}, r"`block_length` must be an integer of at least 1, got 0\."),
        ({"max_denoising_steps": 0}, r"`max_denoising_steps` must be an integer of at least 1, got 0\."),
        (
            {"strategy": "schedule", "block_length": 1, "max_denoising_steps": 3},
            r"`max_denoising_steps` must be at least one per block \(4\), got 3\.",
        ),
        ({"temperature": -1}, r"`temperature` must be a number in \[0, inf\), got -1\."),
        ({"do_sample": True, "temperature": 0}, r"`temperature` must be above 0 with `do_sample=True`, got 0"),
        ({"top_p": 0}, r"`top_p` must be a number in \(0, 1\], got 0\."),
        ({"top_k": -3}, r"`top_k` must be an integer of at least 0, got -3\."),
        (
            {"strategy": "threshold", "confidence_threshold": 1.5},
            r"`confidence_threshold` must be a number in \[0, 1\], got 1\.5\.",
        ),
        (
            {"strategy": "demask", "dependencies": "exact", "dependency_bound": -1},
            r"`dependency_bound` must be a number in \[0, inf\], got -1\.",
        ),
        ({"strategy": "greedy"}, r"`strategy` must be a registered name, got 'greedy'; known: .*klass.*threshold"),
        ({"strategy": "klas"}, r"`strategy` must be a registered name, got 'klas'; nearest: klass\."),
        ({"strategy": "demask"}, r"must have a dependency head, got a model without one: .*load_demask_head"),
        ({"attention_mask": torch.ones(1, 2)}, r"`attention_mask` must have the shape of `input_ids` \(1, 3\), got"),
        ({"attention_mask": torch.tensor([[1, 1, 0]])}, r"`attention_mask` must be padded on the left.*padding_side"),
        ({"attention_mask": torch.tensor([[1, 0, 1]])}, r"`attention_mask` must be padded on the left, got a 0 after"),
        ({"attention_mask": torch.tensor([[0, 0, 0]])}, r"`attention_mask` must leave at least one token .* row 0\."),
        ({"seed": [1, 2]}, r"`seed` must be one integer or one for each of the 1 rows, got "),
        ({"seed": 1, "generator": torch.Generator()}, r"`seed` must be None when a `generator` is given, got both\."),
        ({"seed": "one"}, r"`seed` must be one integer or one for each of the 1 rows, got 'one'\."),
        ({"max_new_token": 4}, r"`max_new_token` must be .* unknown keyword; nearest: max_new_tokens"),
        ({"num_beams": 4}, r"`num_beams` must be 1 for decoding by unmasking, got 4: `num_return_sequences` gives"),
        (
            {"strategy": "demask", "dependency_bond": 0.1},
            r"`dependency_bond` must be .* unknown keyword; nearest: dependency_bound",
        ),
        (
            {"strategy": make_strategy("klass"), "kl_treshold": 0.1},
            r"`kl_treshold` must be .* unknown keyword; nearest: kl_threshold",
        ),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(dream, kwargs, message):
    arguments = {"input_ids": torch.tensor([[5, 6, 7]]), "max_new_tokens": 4, **kwargs}
    with pytest.raises(ValueError, match=message) as caught:
        dream.generate(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"input_ids": None}, r"`input_ids` must be a tensor of token ids, got NoneType\."),
        ({"input_ids": [[5, 6]]}, r"`input_ids` must be a tensor of token ids, got list\."),
        ({"input_ids": torch.ones(1, 3)}, r"`input_ids` must be a tensor of token ids, got"),
        ({"attention_mask": [[1, 1, 1]]}, r"`attention_mask` must be a tensor, got list\."),
        ({"strategy": 5}, r"`strategy` must be a name, a dict or an UnmaskingStrategy, got 5\."),
    ],
)
def test_things_of_another_kind_are_refused_in_a_sentence(dream, kwargs, message):
    arguments = {"input_ids": torch.tensor([[5, 6, 7]]), "max_new_tokens": 4, **kwargs}
    with pytest.raises(TypeError, match=message) as caught:
        dream.generate(**arguments)
    assert "\n" not in str(caught.value)


def test_a_batch_padded_on_the_right_is_refused(dream, tokenizer):
    texts = ["w5 w6 w7", "w8"]
    right = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    with pytest.raises(ValueError, match=r"`attention_mask` must be padded on the left, got a 0 after a 1"):
        dream.generate(right["input_ids"], right["attention_mask"], max_new_tokens=2)
    left = tokenizer(texts, padding=True, return_tensors="pt")
    assert dream.generate(left["input_ids"], left["attention_mask"], max_new_tokens=2).shape == (2, 5)


def test_a_model_without_mask_token_is_refused(make_dream):
    model = make_dream(mask_token_id=None)
    with pytest.raises(ValueError, match=r"`mask_token_id` must be known to decode by unmasking, got None"):
        model.generate(PROMPT, max_new_tokens=2)


def test_nan_from_the_model_is_refused(make_dream):
    model = make_dream()
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    for kwargs in ({}, {"temperature": 1.0, "top_p": 0.9, "top_k": 3}, {"strategy": "sequential"}):
        with pytest.raises(ValueError, match="`logits` must not hold NaN, got some from the model or a logits proc"):
            model.generate(PROMPT, max_new_tokens=2, **kwargs)


@pytest.mark.parametrize("mask_token_id", [0, 1])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_position_without_a_possible_token_is_refused(make_dream, mask_token_id, temperature):
    model = make_dream(mask_token_id=mask_token_id, pad_token_id=3)

    def only_masks(ids, scores):
        others = torch.arange(scores.shape[1]) != mask_token_id
        return scores.masked_fill(others, float("-inf"))

    message = "`logits` must leave a token other than the mask at every position, got a position without one from"
    for arguments in ({"logits_processor": [only_masks]}, {"suppress_tokens": list(range(24))}):
        with pytest.raises(ValueError, match=message):
            model.generate(PROMPT, max_new_tokens=3, strategy="sequential", temperature=temperature, **arguments)


@pytest.mark.parametrize("strategy", sorted({*strategy_names()} - {"demask", "edit"}))
def test_a_vocabulary_of_two_tokens_decodes(make_dream, strategy):
    model = make_dream(vocab_size=2, mask_token_id=0, pad_token_id=1, eos_token_id=None, bos_token_id=None)
    assert model.generate(torch.tensor([[1]]), max_new_tokens=3, strategy=strategy).tolist() == [[1, 1, 1, 1]]


def test_a_vocabulary_of_the_mask_alone_is_refused(make_dream):
    model = make_dream(vocab_size=1, mask_token_id=0, pad_token_id=None, eos_token_id=None, bos_token_id=None)
    with pytest.raises(ValueError, match="`vocab_size` of the model must be at least 2, a mask and a token, got 1"):
        model.generate(torch.tensor([[0]]), max_new_tokens=3)


def test_a_plan_of_far_more_steps_than_tokens_is_refused(dream):
    message = "`max_denoising_steps` must be at most 100 for each of the 4 tokens, got 401: steps beyond"
    with pytest.raises(ValueError, match=message):
        dream.generate(PROMPT, strategy="schedule", max_new_tokens=4, max_denoising_steps=401)


def test_sizes_beyond_the_memory_are_refused(dream, monkeypatch):
    # Per token four ids of 8 bytes, and (32 + 2 * 48) numbers of 4 bytes: 544 bytes.
    message = r"`max_new_tokens` must leave room in memory, got 999 for 2 rows, which need at least 0 GiB of 0\."
    monkeypatch.setattr(limits, "_memory_of", lambda device: 544 * 2 * 1000 - 1)
    with pytest.raises(ValueError, match=message):
        dream.generate(PROMPT, max_new_tokens=999, num_return_sequences=2)
    dream.generate(PROMPT, max_new_tokens=6, num_return_sequences=2)
    # Rows that run one after another need less.
    monkeypatch.setattr(limits, "_memory_of", lambda device: 544 * 8)
    with pytest.raises(ValueError, match="must leave room in memory, got 6 for 2 rows"):
        dream.generate(PROMPT, max_new_tokens=6, num_return_sequences=2)
    dream.generate(PROMPT, max_new_tokens=6, num_return_sequences=2, batch_invariant=True)


def test_sizes_that_no_machine_holds_are_refused(dream):
    with pytest.raises(ValueError, match=r"`max_new_tokens` must leave room in memory, got 10{12} for 1 rows, which"):
        dream.generate(PROMPT, max_new_tokens=10**12)


def test_nan_from_a_logits_processor_is_refused(dream):
    processors = LogitsProcessorList([lambda ids, scores: scores * float("nan")])
    with pytest.raises(ValueError, match="`logits` must not hold NaN"):
        dream.generate(PROMPT, max_new_tokens=2, logits_processor=processors)


def test_nothing_is_decoded_before_the_checks(scripted):
    model = scripted(SCRIPT)
    for kwargs in ({"block_length": 3}, {"strategy": "demask"}, {"seed": [1, 2]}, {"typo": 1}):
        with pytest.raises(ValueError, match=r"`.+` must"):
            _decode(model, **kwargs)
    assert model.calls == []


def test_naming_the_strategy_that_is_set_keeps_its_fields(make_dream):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig(strategy="sequential", order="left_to_right")
    kwargs = {"max_new_tokens": 4, "stop_at_eos": False, "return_dict_in_generate": True}
    output = model.generate(PROMPT, strategy="sequential", **kwargs)
    start = PROMPT.shape[1]
    assert output.unmask_step[0, start:].tolist() == [0, 1, 2, 3]


def test_a_temperature_asked_for_comes_before_an_inherited_do_sample(make_dream):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig(do_sample=False)
    kwargs = {"max_new_tokens": 8, "temperature": 5.0, "stop_at_eos": False}
    assert not torch.equal(model.generate(PROMPT, seed=1, **kwargs), model.generate(PROMPT, seed=2, **kwargs))


def test_seeds_beyond_64_bits_are_refused(dream):
    with pytest.raises(ValueError, match=r"`seed` must be in \[-2\^63, 2\^63\), got 9223372036854775808\."):
        dream.generate(torch.tensor([[5, 6]]), max_new_tokens=1, seed=1 << 63)


def test_drafts_show_the_answer_after_each_step(dream, tokenizer):
    prompts = torch.tensor([[0, 0, 5, MASK, 6], [7, 8, 9, 10, 11]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    arguments = {"strategy": "sequential", "max_new_tokens": 2, "stop_at_eos": False}
    output = dream.generate(prompts, mask, **arguments, output_history=True, return_dict_in_generate=True)
    for row, start in enumerate((3, 5)):
        expected = []
        for sequences in output.history[1 : int(output.num_forward_passes[row]) + 1]:
            tokens = [int(token) for token in sequences[row, start:]]
            pieces = [
                "_" if token == MASK else tokenizer.decode([token], skip_special_tokens=True) for token in tokens
            ]
            expected.append("".join(pieces))
        assert output.drafts(tokenizer, row) == expected
    assert output.drafts(tokenizer, mask="?")[0].count("?") == 2
