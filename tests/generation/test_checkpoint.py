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


def _write(folder, content):
    file = folder / "generation_config.json"
    file.unlink()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)


def _said(warnings):
    return [record.getMessage() for record in warnings.records if "saved without" in record.getMessage()]


@pytest.mark.parametrize(
    ("content", "lost"),
    [
        (b"{", "everything"),
        (b"[1]", "everything"),
        (b"\x80", "everything"),
        (None, "everything"),
        (b'{"top_p": 3, "top_k": 7}', "top_p"),
        (b'{"temprature": 3, "top_k": 7}', "temprature"),
        (b'{"num_beams": 4, "top_k": 7}', "num_beams"),
        (b'{"strategy": {"name": "psychic"}, "top_p": 7}', "strategy, top_p"),
    ],
)
def test_what_was_left_out_is_said_when_a_model_is_saved(make_dream, tmp_path, warnings, content, lost):
    folder = tmp_path / "model"
    make_dream().save_pretrained(folder)
    _write(folder, content)
    model = AutoModel.from_pretrained(folder)
    # Decoding does not forget it, and a config that lost something is a config.
    model.generate(PROMPT, max_new_tokens=3, generation_config=model.generation_config)
    model.save_pretrained(tmp_path / "copy")
    expected = f"saved without what could not be used of the generation_config.json of {folder}: {lost}."
    assert _said(warnings) == [f"{tmp_path / 'copy'} is {expected}"]
    if content is not None:
        model.save_pretrained(folder)
        assert _said(warnings)[1:] == [f"{folder} is {expected}"]
        warnings.clear()
        assert AutoModel.from_pretrained(folder).generation_config._left_out is None
    assert "left_out" not in (tmp_path / "copy" / "generation_config.json").read_text()


def test_a_model_that_lost_nothing_is_saved_without_a_warning(make_dream, tmp_path, warnings):
    make_dream().save_pretrained(tmp_path)
    _write(tmp_path, b'{"top_k": 7, "num_beams": 1, "output_scores": false, "transformers_version": "4.46.0"}')
    model = AutoModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert _said(warnings) == []
    assert json.loads((tmp_path / "generation_config.json").read_text())["top_k"] == 7


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
        ({"mask_token_id": "m", "eos_token_id": [2, "x"], "top_k": 7}, {"top_k": 7}, "eos_token_id, mask_token_id"),
        ({"stop_at_eos": "yes", "top_k": 7}, {"top_k": 7}, "stop_at_eos"),
        ({"temperature": float("nan"), "top_k": float("inf")}, {}, "temperature, top_k"),
        ({"temprature": 0.5, "top_k": 7}, {"top_k": 7}, "temprature"),
        ({"temprature": 0.5, "top_p": 7, "left_out": "x"}, {}, "left_out, temprature, top_p"),
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


@pytest.mark.parametrize(
    "content",
    [b"{", b"[1, 2]", b"7", b"null", b'"schedule"', b"", b"\x80\x81\xff", b"[" * 100_000, b'{"top_k": 7', None],
)
def test_files_that_hold_no_settings_give_defaults_with_one_warning(make_dream, tmp_path, warnings, content):
    make_dream().save_pretrained(tmp_path)
    _write(tmp_path, content)
    model = AutoModel.from_pretrained(tmp_path)
    assert isinstance(model.generation_config, DemaskGenerationConfig)
    assert model.generation_config.strategy is None
    (message,) = [record.getMessage() for record in warnings.records if "generation_config" in record.getMessage()]
    assert message.startswith(f"The generation_config.json of {tmp_path} ")
    assert message.endswith(
        ": nothing of it is used, neither settings nor special tokens, and defaults take their place."
    )
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
