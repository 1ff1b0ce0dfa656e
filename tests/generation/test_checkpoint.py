"""A model loads whatever stands in its generation_config.json."""

import json
import logging

import pytest
import torch
from transformers import AutoModel

from demask_hf import DemaskGenerationConfig
from demask_hf.generation.checkpoint import load_settings


PROMPT = torch.tensor([[5, 6]])


@pytest.fixture
def warnings(caplog, monkeypatch):
    """Return the warnings of transformers' loggers and ours."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


@pytest.mark.parametrize(
    ("content", "kept", "left_out"),
    [
        ({"top_p": 3, "max_new_tokens": 4}, {"max_new_tokens": 4}, "top_p"),
        ({"temperature": "hot", "eos_token_id": 2}, {"eos_token_id": 2}, "temperature"),
        ({"strategy": {"name": "psychic"}, "max_new_tokens": 4}, {"max_new_tokens": 4}, "strategy"),
        ({"strategy": 5}, {}, "strategy"),
        ({"strategy": {"name": ["threshold"]}}, {}, "strategy"),
        ({"alg": "unheard_of", "steps": 8, "eps": 0.001, "top_k": 7}, {"top_k": 7}, "alg, eps, steps"),
        ({"steps": 8, "top_k": 7}, {"top_k": 7}, "steps"),
        ({"do_sample": True, "temperature": 0.0}, {"do_sample": True}, "temperature"),
        ({"bad_words_ids": [[5, 6]], "top_k": 7}, {"top_k": 7}, "bad_words_ids"),
        ({"max_new_tokens": -3, "block_length": "long"}, {}, "block_length, max_new_tokens"),
    ],
)
def test_what_cannot_be_used_is_left_out_with_one_warning(make_dream, tmp_path, warnings, content, kept, left_out):
    make_dream().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    model = AutoModel.from_pretrained(tmp_path)
    found = model.generation_config.to_dict()
    found.pop("transformers_version", None)
    assert found == kept
    (message,) = [record.getMessage() for record in warnings.records if "generation_config" in record.getMessage()]
    assert f"left out: {left_out}. " in message
    assert model.generate(PROMPT, max_new_tokens=3).shape == (1, 5)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "7", "null", '"schedule"', ""])
def test_files_that_hold_no_settings_give_defaults_with_one_warning(make_dream, tmp_path, warnings, text):
    make_dream().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(text)
    model = AutoModel.from_pretrained(tmp_path)
    assert isinstance(model.generation_config, DemaskGenerationConfig)
    assert model.generation_config.strategy is None
    assert len([record for record in warnings.records if "generation_config" in record.getMessage()]) == 1
    assert model.generate(PROMPT, max_new_tokens=3).shape == (1, 5)


def test_a_file_of_another_decoder_loads_without_a_warning(make_dream, tmp_path, warnings):
    make_dream().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"num_beams": 4, "do_sample": true, "top_k": 20}')
    model = AutoModel.from_pretrained(tmp_path)
    assert not [record for record in warnings.records if "generation_config" in record.getMessage()]
    assert model.generate(PROMPT, max_new_tokens=3, seed=0).shape == (1, 5)


def test_settings_of_a_checkpoint_without_a_file_are_none(make_dream, tmp_path):
    make_dream().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    assert load_settings(tmp_path) is None
    assert AutoModel.from_pretrained(tmp_path).generate(PROMPT, max_new_tokens=3).shape == (1, 5)
