"""Where strategy, steps, temperature and seeds come from."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GenerationConfig, MaxTimeCriteria, pipeline

import demask_hf
from demask_hf import DemaskGenerationConfig
from demask_hf.generation import arguments, preparation


PAD, MASK, EOS = 0, 1, 2
PROMPT = torch.tensor([[5, 6]])
# The generation_config.json of Dream-v0-Instruct-7B, with the special tokens of the tests.
HUB = {"alg": "origin", "alg_temp": None, "eps": 0.001, "mask_token_id": None, "output_history": False, "steps": 512}
HUB |= {"temperature": 0.0, "top_k": None, "top_p": None, "pad_token_id": PAD, "eos_token_id": EOS}


@pytest.fixture
def hub_model(make_dream):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig.from_dict(HUB)
    return model


@pytest.fixture
def said(monkeypatch):
    """Return what is logged, as level and message; the loggers say it again in every test."""
    messages = []
    for module in (arguments, preparation):
        for name in ("warning_once", "info_once"):
            monkeypatch.setattr(
                module.logger, name, lambda message, name=name: messages.append((name, message)), raising=False
            )
    return messages


def _decode(model, ids=PROMPT, **kwargs):
    kwargs = {"max_new_tokens": 16, "seed": 3, **kwargs}
    return model.generate(ids, return_dict_in_generate=True, **kwargs)


def _same(first, second):
    return torch.equal(first.unmask_step, second.unmask_step) and torch.equal(first.sequences, second.sequences)


# The strategy


def test_with_a_head_dreams_settings_decode_with_demask(hub_model, make_head, said):
    hub_model.set_demask_head(make_head(hub_model))
    output = _decode(hub_model)
    ((level, message),) = said
    assert _same(output, _decode(hub_model, strategy="demask"))
    assert output.num_forward_passes.item() <= 16
    assert level == "warning_once"
    assert "decodes with strategy 'demask', as the model has a dependency head, and not with 'schedule'" in message


def test_without_a_head_dreams_schedule_makes_at_most_a_step_for_each_token(hub_model, said):
    output = _decode(hub_model, stop_at_eos=False)
    assert output.num_forward_passes.item() <= 16
    named = {"strategy": "schedule", "algorithm": "origin", "max_denoising_steps": 16, "stop_at_eos": False}
    assert _same(output, _decode(hub_model, **named))
    assert said == [("info_once", "`generate` decodes with strategy 'schedule'; `strategy=` chooses another one.")]
    # Also where the caller names the schedule, the steps are the checkpoint's.
    assert _same(output, _decode(hub_model, strategy="schedule", stop_at_eos=False))


def test_steps_are_clamped_to_the_masks_of_an_infilled_prompt(hub_model):
    ids = torch.tensor([[5, MASK, MASK, MASK, 6]])
    inherited = _decode(hub_model, ids, max_new_tokens=0)
    assert inherited.num_forward_passes.item() <= 3
    assert _same(inherited, _decode(hub_model, ids, max_new_tokens=0, max_denoising_steps=3))


def test_steps_that_the_caller_names_are_kept(hub_model):
    output = _decode(hub_model, algorithm="entropy", max_denoising_steps=40, stop_at_eos=False)
    assert output.num_forward_passes.item() > 16


def test_a_strategy_that_the_caller_names_comes_before_the_head(hub_model, make_head, said):
    hub_model.set_demask_head(make_head(hub_model))
    for named in (
        {"strategy": "sequential"},
        {"generation_config": DemaskGenerationConfig(strategy="sequential")},
        {"strategy": demask_hf.make_strategy("sequential")},
    ):
        assert _decode(hub_model, stop_at_eos=False, **named).num_forward_passes.tolist() == [16]
    assert said == []


def test_a_copy_of_the_checkpoints_settings_names_nothing(hub_model, make_head):
    # Pipelines of older versions of transformers pass one.
    hub_model.set_demask_head(make_head(hub_model))
    config = DemaskGenerationConfig.from_dict(hub_model.generation_config.to_dict())
    assert _same(_decode(hub_model, generation_config=config), _decode(hub_model, strategy="demask"))


def test_the_checkpoints_own_fields_of_demask_are_kept(make_dream, make_head, said):
    model = make_dream()
    model.set_demask_head(make_head(model))
    model.generation_config = DemaskGenerationConfig(strategy="demask", dependency_bound=0.0, stop_at_eos=False)
    assert _decode(model).num_forward_passes.tolist() == [16]
    assert [level for level, _ in said] == ["info_once"]


# Temperature


def test_do_sample_alone_means_temperature_one(dream):
    kwargs = {"strategy": "sequential"}
    expected = _decode(dream, temperature=1.0, **kwargs)
    assert _same(_decode(dream, do_sample=True, **kwargs), expected)
    config = GenerationConfig(do_sample=True)
    assert _same(_decode(dream, generation_config=config, **kwargs), expected)
    assert not _same(_decode(dream, **kwargs), expected)


@pytest.mark.parametrize(("stored", "expected"), [(0.0, 1.0), (0.4, 0.4), (None, 1.0)])
def test_do_sample_takes_the_checkpoints_temperature_above_zero(make_dream, stored, expected):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig(temperature=stored)
    config, _ = arguments.resolve_config(model, None, None, {"do_sample": True})
    assert config.temperature == expected
    model.generation_config = DemaskGenerationConfig(temperature=stored or None, do_sample=True)
    config, _ = arguments.resolve_config(model, None, None, {})
    assert config.temperature == expected


def test_a_temperature_of_zero_means_no_samples_whatever_the_checkpoint_says(make_dream):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig(do_sample=True, temperature=0.7)
    assert arguments.resolve_config(model, None, None, {"temperature": 0})[0].temperature == 0
    assert arguments.resolve_config(model, None, None, {"do_sample": False})[0].temperature == 0


def test_the_pipeline_works_with_dreams_settings(hub_model, make_head, tokenizer, said):
    generate = pipeline("text-generation", model=hub_model, tokenizer=tokenizer)
    torch.manual_seed(0)
    (result,) = generate("w5 w6", max_new_tokens=6)
    assert isinstance(result["generated_text"], str)
    hub_model.set_demask_head(make_head(hub_model))
    generate("w5 w6", max_new_tokens=6, do_sample=False)
    assert any("decodes with strategy 'demask'" in message for _, message in said)


# Several answers


@pytest.mark.parametrize("seed", [4, [4, 9], [4, 5, 6, 9, 10, 11]])
def test_answers_of_a_prompt_have_seeds_that_follow_each_other(dream, seed):
    ids = torch.tensor([[5, 6], [7, 8]])
    kwargs = {"temperature": 1.0, "strategy": "threshold", "max_new_tokens": 8}
    output = _decode(dream, ids, seed=seed, num_return_sequences=3, **kwargs)
    assert output.sequences.shape == (6, 10)
    firsts = (4, 4) if seed == 4 else (4, 9)
    for row in range(6):
        alone = _decode(dream, ids[row // 3 :][:1], seed=firsts[row // 3] + row % 3, **kwargs)
        assert torch.equal(output.sequences[row], alone.sequences[0])
        assert output.num_forward_passes[row] == alone.num_forward_passes[0]
    assert len({tuple(row) for row in output.sequences[:3].tolist()}) > 1


def test_answers_of_a_padded_batch(dream):
    ids, attention_mask = torch.tensor([[PAD, 5], [6, 7]]), torch.tensor([[0, 1], [1, 1]])
    kwargs = {"temperature": 1.0, "max_new_tokens": 6, "num_return_sequences": 2}
    output = _decode(dream, ids, attention_mask=attention_mask, token_type_ids=torch.zeros_like(ids), **kwargs)
    alone = _decode(dream, torch.tensor([[5]]), **kwargs)
    assert torch.equal(output.sequences[:2, 1:], alone.sequences)
    generator = torch.Generator().manual_seed(0)
    drawn = _decode(dream, ids, seed=None, generator=generator, **kwargs)
    assert drawn.sequences.shape == (4, 8)


def test_seeds_that_fit_neither_prompts_nor_rows_are_refused(dream):
    with pytest.raises(ValueError, match=r"`seed` must be one integer or one for each of the 1 rows, got \[1, 2\]\."):
        _decode(dream, seed=[1, 2], num_return_sequences=3)


def test_pipelines_return_several_answers(dream, tokenizer):
    generate = pipeline("text-generation", model=dream, tokenizer=tokenizer)
    (found,) = generate(["w5 w6"], max_new_tokens=4, temperature=1.0, seed=1, num_return_sequences=3)
    assert len(found) == 3


def test_equal_answers_are_hinted_at(dream, said):
    hint = (
        "warning_once",
        "Rows with equal prompts get equal answers from one `seed`: give each row its own, or set ",
    )
    ids = torch.tensor([[5, 6], [5, 6]])

    def hints(ids=ids, **kwargs):
        said.clear()
        _decode(dream, ids, **{"strategy": "threshold", "temperature": 1.0, **kwargs})
        return [message for level, message in said if level == hint[0] and message.startswith(hint[1])]

    assert len(hints()) == 1
    assert len(hints(torch.tensor([[PAD, 5], [3, 5]]), attention_mask=torch.tensor([[0, 1], [1, 1]]))) == 0
    for kwargs in ({"seed": [1, 2]}, {"seed": None}, {"temperature": 0.0}, {"ids": torch.tensor([[5, 6], [5, 7]])}):
        assert hints(**kwargs) == []
    said.clear()
    _decode(dream, strategy="threshold", num_return_sequences=2)
    assert any("alike at temperature 0" in message for _, message in said)


# Ends


def test_time_is_asked_after_every_step(scripted):
    # Written from the right: no text is finished before the last step.
    model = scripted([{5 + k: 0.5 + 0.1 * k} for k in range(4)])
    kwargs = {"max_new_tokens": 4, "strategy": "sequential"}
    for limit in ({"max_time": 0.0}, {"stopping_criteria": [MaxTimeCriteria(0.0)]}):
        output = _decode(model, torch.tensor([[9]]), **limit, **kwargs)
        assert output.num_forward_passes.tolist() == [1]
        assert output.sequences.tolist() == [[9, PAD, PAD, PAD, PAD]]
        assert output.unmask_step.tolist() == [[-1] * 5]
    assert _decode(model, torch.tensor([[9]]), max_time=60.0, **kwargs).sequences.tolist() == [[9, 5, 6, 7, 8]]


def test_finished_text_stays_when_time_is_over(scripted):
    model = scripted([{5: 0.9}, {6: 0.95}, {7: 0.5}, {8: 0.92}])
    output = _decode(
        model,
        torch.tensor([[9]]),
        max_new_tokens=4,
        strategy="threshold",
        confidence_threshold=0.9,
        max_time=0.0,
    )
    assert output.sequences.tolist() == [[9, 5, 6, PAD, PAD]]
    assert output.unmask_step.tolist() == [[-1, 0, 0, -1, -1]]


def test_an_attached_encoder_writes_the_end_that_the_caller_names():
    config = BertConfig(
        vocab_size=24, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    model = BertForMaskedLM(config).eval()
    with torch.no_grad():
        model.cls.predictions.bias[3] = 50.0
    model.config.sep_token_id, model.config.pad_token_id = 3, 0
    demask_hf.attach(model, mask_token_id=4)
    assert 3 not in _decode(model, stop_at_eos=False, max_new_tokens=4).sequences[0, 2:].tolist()
    output = _decode(model, eos_token_id=3, max_new_tokens=4)
    assert output.sequences[0, 2:].tolist() == [3, 0, 0, 0]
    # Other special tokens are still never written, and the next call without the argument is as before.
    assert 3 not in _decode(model, max_new_tokens=4).sequences[0, 2:].tolist()
