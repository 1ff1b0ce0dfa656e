"""Telling models apart: weights, configurations and tokenizers."""

import copy

import pytest
import torch

import demask_hf
from demask_hf.models.fingerprints import model_facts, weights_fingerprint


def test_a_fingerprint_sees_every_weight_its_place_and_its_format(make_dream):
    model, same = make_dream(), make_dream()
    found = weights_fingerprint(model)
    assert weights_fingerprint(same) == found
    with torch.no_grad():
        # Not among the first 256 numbers of its tensor.
        same.lm_head.weight.view(-1)[-1] += 1e-3
    assert weights_fingerprint(same) != found
    assert weights_fingerprint(make_dream().to(torch.bfloat16)) != found
    assert weights_fingerprint(model, None) == weights_fingerprint(model)
    assert weights_fingerprint(None, model) != found


def test_weights_that_are_elsewhere_are_left_out_of_a_fingerprint(make_dream):
    model, other = make_dream().to("meta"), make_dream(seed=1).to("meta")
    assert weights_fingerprint(model) == weights_fingerprint(other)


def test_offloaded_weights_are_read_from_where_they_are(dream, make_dream, tmp_path):
    pytest.importorskip("accelerate")
    folders = [tmp_path / "model", tmp_path / "other"]
    other = copy.deepcopy(dream)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.view(-1)[-1] += 1e-3
    for model, folder in zip((dream, other), folders, strict=True):
        model.save_pretrained(folder)
    device_map = {"model.layers.0": "disk", "model.layers.1": "cpu", "model.embed_tokens": "cpu"}
    device_map |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    found = []
    for folder in folders:
        model = demask_hf.DreamModel.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path / "disk")
        assert model.model.layers[0].mlp.down_proj.weight.device.type == "meta"
        found.append(weights_fingerprint(model))
    assert found == [weights_fingerprint(dream), weights_fingerprint(other)]
    assert found[0] != found[1]


def test_weights_by_name_can_be_left_out(make_dream):
    model, other = make_dream(), make_dream()
    with torch.no_grad():
        other.lm_head.weight.view(-1)[0] += 1
    assert weights_fingerprint(model, without="lm_head") == weights_fingerprint(other, without="lm_head")
    assert weights_fingerprint(model, without="embed") != weights_fingerprint(other, without="embed")


def test_a_tensor_made_of_several_counts_with_all_of_them():
    class Quantised(torch.Tensor):
        def __tensor_flatten__(self):
            return ["numbers", "scale"], None

    def module(scale):
        module = torch.nn.Module()
        weight = torch.zeros(2).as_subclass(Quantised)
        weight.numbers, weight.scale = torch.ones(2, dtype=torch.int8), torch.tensor(scale)
        module.register_buffer("weight", weight)
        return module

    assert weights_fingerprint(module(1.0)) == weights_fingerprint(module(1.0)) != weights_fingerprint(module(2.0))


def test_facts_name_what_differs(dream_with_head, tokenizer, make_dream):
    facts = model_facts(dream_with_head, tokenizer)
    assert facts["version"] == demask_hf.__version__
    assert facts["dtype"] == "torch.float32"
    assert facts["weights"].keys() == {"model", "head"}
    assert facts == model_facts(dream_with_head, tokenizer)
    assert model_facts(dream_with_head).keys() == facts.keys() - {"tokenizer"}
    # The bound of a certificate is a setting of the head.
    head = copy.deepcopy(dream_with_head.demask_head)
    head.config.certificate = {"dependency_bound": 0.1}
    other = make_dream()
    other.set_demask_head(head)
    other.generation_config.max_new_tokens = 99
    changed = model_facts(other)["configuration"]
    assert {name for name, digest in changed.items() if digest != facts["configuration"][name]} == {
        "head",
        "generation",
    }


def test_a_saved_model_has_the_facts_of_the_one_in_memory(dream_with_head, tokenizer, tmp_path):
    dream_with_head.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    dream_with_head.demask_head.save_pretrained(tmp_path / "head")
    model, loaded = demask_hf.load_model(str(tmp_path / "model"), head=str(tmp_path / "head"), device="cpu")
    before = model_facts(model, loaded)
    assert before["weights"] == model_facts(dream_with_head)["weights"]
    assert before["configuration"] == model_facts(dream_with_head)["configuration"]
    # What a call leaves in the tokenizer is no setting.
    loaded(["w5 w6", "w7"], padding=True, return_tensors="pt")
    assert model_facts(model, loaded) == before
    loaded.chat_template = "{{ messages }}"
    assert model_facts(model, loaded)["tokenizer"] != before["tokenizer"]
