import json

import pytest
from transformers import GenerationConfig

from demask_hf import DemaskGenerationConfig, make_strategy


# The generation_config.json of Dream-v0-Instruct-7B on the Hub.
HUB_DREAM = {
    "_from_model_config": True,
    "alg": "origin",
    "alg_temp": None,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "eps": 0.001,
    "mask_token_id": None,
    "output_history": False,
    "pad_token_id": 151643,
    "steps": 512,
    "temperature": 0.0,
    "top_k": None,
    "top_p": None,
    "transformers_version": "4.46.2",
}
EVERYTHING = {
    "max_new_tokens": 24,
    "max_length": 40,
    "block_length": 8,
    "max_denoising_steps": 12,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 20,
    "do_sample": True,
    "seed": [1, 2],
    "stop_at_eos": False,
    "return_dict_in_generate": True,
    "output_history": True,
    "mask_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": 3,
    "eos_token_id": [2, 4],
}


def _round_trip(config, folder):
    config.save_pretrained(folder)
    return DemaskGenerationConfig.from_pretrained(folder)


def test_every_setting_survives_a_round_trip(tmp_path):
    config = DemaskGenerationConfig(**EVERYTHING, strategy="demask", dependency_bound=0.05, rule="max")
    loaded = _round_trip(config, tmp_path)
    for name, value in EVERYTHING.items():
        assert getattr(loaded, name) == value
    assert loaded.strategy == config.strategy == make_strategy("demask", dependency_bound=0.05, rule="max").to_dict()


def test_nothing_set_stays_nothing_set(tmp_path):
    loaded = _round_trip(DemaskGenerationConfig(), tmp_path)
    assert loaded.to_dict().keys() <= {"transformers_version"}
    assert set(json.loads((tmp_path / "generation_config.json").read_text())) == {"transformers_version"}


def test_a_saved_file_names_the_version_of_transformers(tmp_path):
    import transformers

    DemaskGenerationConfig(max_new_tokens=4).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved == {"max_new_tokens": 4, "transformers_version": transformers.__version__}


def test_hub_dream_config_means_what_it_meant(tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps(HUB_DREAM))
    config = DemaskGenerationConfig.from_pretrained(tmp_path)
    assert config.strategy == make_strategy("schedule", algorithm="origin", eps=0.001, alg_temp=None).to_dict()
    assert config.max_denoising_steps == 512
    assert config.is_schedule
    assert config.mask_token_id is None
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (151643,) * 3
    assert (config.temperature, config.top_p, config.top_k) == (0.0, None, None)


def test_hub_dream_config_is_the_file_beside_the_repository(hub_dream):
    assert json.loads((hub_dream / "generation_config.json").read_text()) == HUB_DREAM


def test_hub_dream_config_survives_a_round_trip_in_our_names(tmp_path):
    loaded = _round_trip(DemaskGenerationConfig.from_dict(HUB_DREAM), tmp_path)
    assert loaded.strategy["algorithm"] == "origin"
    assert loaded.max_denoising_steps == 512
    assert "alg" not in json.loads((tmp_path / "generation_config.json").read_text())


def test_dream_names_are_keywords_too():
    config = DemaskGenerationConfig(alg="maskgit_plus", steps=12, eps=0.01, alg_temp=0.2)
    expected = make_strategy("schedule", algorithm="maskgit_plus", eps=0.01, alg_temp=0.2)
    assert config.strategy == expected.to_dict()
    assert config.max_denoising_steps == 12


def test_options_of_other_decoding_methods_are_left_out_of_a_dictionary():
    config = DemaskGenerationConfig.from_dict({"num_beams": 4, "max_new_tokens": 7, "guidance_scale": 1.2})
    assert config.to_dict() == {"max_new_tokens": 7}


def test_unused_options_are_returned_on_request():
    config, unused = DemaskGenerationConfig.from_dict({"num_beams": 4, "top_k": 7}, return_unused_kwargs=True)
    assert config.top_k == 7
    assert unused == {"num_beams": 4}


def test_defaults_of_transformers_do_not_leak_in():
    config = DemaskGenerationConfig.from_dict(GenerationConfig().to_dict())
    assert config.top_k is None
    assert config.temperature is None
    assert DemaskGenerationConfig._get_default_generation_params()["temperature"] == 0.0


@pytest.mark.parametrize(
    "strategy",
    ["threshold", {"name": "threshold"}, {"name": "threshold", "factor": None}, make_strategy("threshold")],
    ids=["name", "dict", "dict-with-field", "object"],
)
def test_strategy_takes_a_name_a_dict_or_an_object(strategy):
    config = DemaskGenerationConfig(strategy=strategy, confidence_threshold=0.5)
    assert config.strategy == {
        "name": "threshold",
        "confidence_threshold": 0.5,
        "factor": None,
        "factor_variant": "stated",
    }


def test_keywords_override_fields_of_an_object():
    config = DemaskGenerationConfig(strategy=make_strategy("demask", dependency_bound=0.3, rule="max"), rule="total")
    assert config.strategy["dependency_bound"] == 0.3
    assert config.strategy["rule"] == "total"


def test_printing_shows_what_is_set():
    assert '"max_new_tokens": 4' in repr(DemaskGenerationConfig(max_new_tokens=4))


def test_equal_settings_make_equal_configs():
    assert DemaskGenerationConfig(top_k=3) == DemaskGenerationConfig(top_k=3)
    assert DemaskGenerationConfig(top_k=3) != DemaskGenerationConfig(top_k=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": -1}, r"`max_new_tokens` must be an integer of at least 0, got -1\."),
        ({"max_new_tokens": 2.5}, r"`max_new_tokens` must be an integer of at least 0, got 2\.5\."),
        ({"max_new_tokens": True}, r"`max_new_tokens` must be an integer of at least 0, got True\."),
        ({"max_length": 0}, r"`max_length` must be an integer of at least 1, got 0\."),
        ({"block_length": 0}, r"`block_length` must be an integer of at least 1, got 0\."),
        ({"top_k": -1}, r"`top_k` must be an integer of at least 0, got -1\."),
        ({"max_denoising_steps": 0}, r"`max_denoising_steps` must be an integer of at least 1, got 0\."),
        ({"temperature": -0.1}, r"`temperature` must be a number in \[0, inf\), got -0\.1\."),
        ({"temperature": "hot"}, r"`temperature` must be a number in \[0, inf\), got 'hot'\."),
        ({"temperature": float("nan")}, r"`temperature` must be a number in \[0, inf\), got nan\."),
        ({"top_p": 0.0}, r"`top_p` must be a number in \(0, 1\], got 0\.0\."),
        ({"scores": "tempered"}, r"`scores` must be one of model, sampled, got 'tempered'\."),
        ({"top_p": 1.1}, r"`top_p` must be a number in \(0, 1\], got 1\.1\."),
        ({"do_sample": True, "temperature": 0}, r"`temperature` must be above 0 with `do_sample=True`, got 0\."),
        ({"strategy": {"rule": "max"}}, r"`strategy` must hold its `name`, got \{'rule': 'max'\}\."),
        ({"strategy": "thresold"}, r"`strategy` must be a registered name, got 'thresold'; nearest: threshold\."),
        ({"strategy": "zzz"}, r"`strategy` must be a registered name, got 'zzz'; known: .*demask.*threshold"),
        ({"strategy": "threshold", "confidence_threshold": 2}, r"`confidence_threshold` must be .* \[0, 1\], got 2\."),
        ({"max_new_token": 3}, r"`max_new_token` must be an argument.* nearest: max_new_tokens"),
        ({"strategy": "demask", "dependancy_bound": 3}, r"`dependancy_bound` .* nearest: dependency_bound"),
        ({"strategy": "threshold", "dependency_bound": 3}, r"`dependency_bound` must be .* got an unknown keyword"),
        ({"dependency_bound": 0.1}, r"`dependency_bound` must be .* got an unknown keyword"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        DemaskGenerationConfig(**settings)


def test_a_strategy_of_another_kind_is_refused():
    with pytest.raises(TypeError, match=r"`strategy` must be a name, a dict or an UnmaskingStrategy, got 3\."):
        DemaskGenerationConfig(strategy=3)


def test_wrong_values_are_refused_when_they_are_loaded(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"top_p": 3}')
    with pytest.raises(ValueError, match=r"`top_p` must be a number in \(0, 1\]"):
        DemaskGenerationConfig.from_pretrained(tmp_path)


def test_it_has_no_generation_mode_and_is_not_read_from_a_model_config():
    with pytest.raises(NotImplementedError, match="no generation mode"):
        DemaskGenerationConfig().get_generation_mode()
    with pytest.raises(NotImplementedError, match="not read from a model's config"):
        DemaskGenerationConfig.from_model_config(None)
