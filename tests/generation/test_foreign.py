"""Options of other decoders: neutral values pass, everything else is refused in one sentence."""

import pytest
import torch
from transformers import GenerationConfig

from demask_hf import DemaskGenerationConfig
from demask_hf.generation.foreign import _IGNORED, _INSTEAD, without_foreign


PROMPT = torch.tensor([[9, 5]])
NEUTRAL = {
    "use_cache": True,
    "synced_gpus": False,
    "disable_compile": True,
    "num_beams": 1,
    "num_beam_groups": 1,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "past_key_values": None,
    "tokenizer": None,
    "min_new_tokens": None,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "guidance_scale": None,
    "output_scores": False,
    "assistant_model": None,
    "prefix_allowed_tokens_fn": None,
    "negative_prompt_ids": None,
    "renormalize_logits": True,
    "num_return_sequences": 1,
    "custom_generate": None,
    "cfg_scale": 0.0,
}
ASKING = {
    "num_beams": 4,
    "diversity_penalty": 0.5,
    "min_new_tokens": 3,
    "min_length": 5,
    "no_repeat_ngram_size": 2,
    "typical_p": 0.9,
    "min_p": 0.1,
    "guidance_scale": 1.5,
    "sequence_bias": [[[5], 1.0]],
    "forced_eos_token_id": 2,
    "begin_suppress_tokens": [5],
    "exponential_decay_length_penalty": (5, 1.1),
    "cache_implementation": "paged",
    "output_scores": True,
    "token_healing": True,
    "remove_invalid_values": True,
    "prompt_lookup_num_tokens": 3,
    "penalty_alpha": 0.6,
}
# Not part of a stock config.
ARGUMENTS = {
    "synced_gpus": True,
    "assistant_model": torch.nn.Linear(2, 2),
    "prefix_allowed_tokens_fn": len,
    "negative_prompt_ids": PROMPT,
    "past_key_values": object(),
    "inputs_embeds": torch.zeros(1, 2, 32),
    "position_ids": PROMPT,
}


def test_neutral_values_change_nothing(dream):
    expected = dream.generate(PROMPT, max_new_tokens=6)
    assert torch.equal(dream.generate(inputs=PROMPT, max_new_tokens=6, **NEUTRAL), expected)
    for name, value in NEUTRAL.items():
        assert torch.equal(dream.generate(PROMPT, max_new_tokens=6, **{name: value}), expected)
    # Batches of a trainer hold them.
    assert torch.equal(dream.generate(PROMPT, max_new_tokens=6, labels=PROMPT), expected)


def test_every_default_of_transformers_is_neutral(dream):
    defaults = GenerationConfig._get_default_generation_params()
    other = {name: value for name, value in defaults.items() if name not in DemaskGenerationConfig().__dict__}
    config = GenerationConfig(max_new_tokens=6, **other)
    assert torch.equal(dream.generate(PROMPT, generation_config=config), dream.generate(PROMPT, max_new_tokens=6))
    assert without_foreign(other, ()) == {}


@pytest.mark.parametrize("name", [*ASKING, *ARGUMENTS])
def test_other_values_are_refused_as_keywords(dream, name):
    value = {**ASKING, **ARGUMENTS}[name]
    with pytest.raises(ValueError, match=rf"^`{name}` must be .+ for decoding by unmasking, got .+: .+\.$") as caught:
        dream.generate(PROMPT, max_new_tokens=6, **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ASKING)
def test_other_values_are_refused_in_the_callers_config(dream, name):
    config = GenerationConfig(max_new_tokens=6)
    setattr(config, name, ASKING[name])
    with pytest.raises(ValueError, match=rf"^`{name}` must be .+, got"):
        dream.generate(PROMPT, generation_config=config)
    own = DemaskGenerationConfig(max_new_tokens=6)
    setattr(own, name, ASKING[name])
    with pytest.raises(ValueError, match=rf"^`{name}` must be .+, got"):
        dream.generate(PROMPT, generation_config=own)
    with pytest.raises(ValueError, match=rf"^`{name}` must be .+, got"):
        DemaskGenerationConfig(**{name: ASKING[name]})


def test_the_checkpoints_own_options_are_left_out(make_dream):
    model = make_dream()
    expected = model.generate(PROMPT, max_new_tokens=6)
    model.generation_config = GenerationConfig(num_beams=4, no_repeat_ngram_size=2)
    assert torch.equal(model.generate(PROMPT, max_new_tokens=6), expected)


@pytest.mark.parametrize(
    ("keyword", "value", "here"),
    [
        ("steps", 8, "`max_denoising_steps`"),
        ("alg", "entropy", "`strategy='schedule'` with `algorithm`"),
        ("gen_length", 8, "`max_new_tokens`"),
        ("mask_id", 3, "`mask_token_id`"),
        ("remasking", "low_confidence", "`strategy='sequential'`"),
        ("cfg_scale", 1.5, "nothing, as there is no guidance"),
        ("threshold", 0.9, "`confidence_threshold`"),
        ("generation_tokens_hook_func", len, "`streamer`"),
        ("generation_logits_hook_func", len, "`logits_processor`"),
    ],
)
def test_names_of_public_samplers_are_refused_with_ours(dream, keyword, value, here):
    with pytest.raises(ValueError, match=rf"^`{keyword}` must be given as .+, got") as caught:
        dream.generate(PROMPT, max_new_tokens=6, **{keyword: value})
    assert here in str(caught.value)


def test_long_values_are_not_shown_in_full(dream):
    with pytest.raises(ValueError, match=r"`sequence_bias` must be None .*, got \[\[\[5\], .*\.\.\.: pass a logits"):
        dream.generate(PROMPT, sequence_bias=[[[5], 1.0]] * 50)


def test_options_that_are_nobodys_are_refused(dream):
    config = GenerationConfig()
    config.max_new_token = 4
    with pytest.raises(ValueError, match=r"`max_new_token` must be .* unknown keyword; nearest: max_new_tokens"):
        dream.generate(PROMPT, generation_config=config)


def test_prompts_given_by_two_names_are_refused(dream):
    with pytest.raises(ValueError, match=r"`inputs` must be None when `input_ids` is given, got both\."):
        dream.generate(PROMPT, inputs=PROMPT)


def test_the_tables_name_no_setting_of_ours():
    assert not {*_INSTEAD, *_IGNORED} & set(DemaskGenerationConfig().__dict__)
