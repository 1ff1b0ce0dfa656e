"""Adapters that were trained on LLaDA's own code arrive whole in our model, or are refused."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from demask_hf import DreamConfig, DreamModel, LLaDAConfig, LLaDAModelLM


peft = pytest.importorskip("peft", reason="needs peft")

IDS = torch.tensor([[5, 6, 7, 8, 9]])
SIZES = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
SIZES |= {"mask_token_id": 1, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
OFFICIAL = {"o_proj": "attn_out", "gate_proj": "ff_proj", "down_proj": "ff_out", "embed_tokens": "wte"}
EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]


def build(model=LLaDAModelLM, config=LLaDAConfig):
    torch.manual_seed(0)
    return model(config(**SIZES)).eval()


def official(name):
    """Return the name of a tensor of an adapter as LLaDA's own code has it."""
    name = name.replace(".lm_head.", ".model.transformer.ff_out.").replace("embed_tokens", "transformer.wte")
    name = re.sub(r"model\.layers\.(\d+)\.(self_attn|mlp)\.", r"model.transformer.blocks.\1.", name)
    return ".".join(OFFICIAL.get(part, part) for part in name.split("."))


def save_official(folder, targets, **fields):
    """Write an adapter as LLaDA's own code does; return the logits of the model with it."""
    torch.manual_seed(1)
    config = peft.LoraConfig(target_modules=targets, init_lora_weights=False, r=4, **fields)
    model = peft.get_peft_model(build(), config).eval()
    model.save_pretrained(folder, save_embedding_layers=False)
    path = folder / "adapter_model.safetensors"
    save_file({official(name): tensor for name, tensor in load_file(path).items()}, path)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    names = {**OFFICIAL, "lm_head": "ff_out"}
    for field in ("rank_pattern", "alpha_pattern"):
        settings[field] = {official(name): value for name, value in settings[field].items()}
    settings["target_modules"] = sorted({names.get(name, name) for name in targets})
    path.write_text(json.dumps(settings))
    return model(IDS).logits


def change_tensors(folder, dropped=(), added=()):
    path = folder / "adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if not any(part in name for part in dropped)}
    save_file({**tensors, **{name: torch.zeros(4, 4) for name in added}}, path)


def wrapped(folder, **arguments):
    return peft.PeftModel.from_pretrained(build(), folder, **arguments).eval()


def loaded(folder):
    model = build()
    model.load_adapter(str(folder))
    return model


def test_names_that_both_have_are_found(tmp_path):
    expected = save_official(tmp_path, ["q_proj", "v_proj"])
    assert not torch.equal(build()(IDS).logits, expected)
    for model in (wrapped(tmp_path), loaded(tmp_path)):
        torch.testing.assert_close(model(IDS).logits, expected)


@pytest.mark.parametrize("targets", [["o_proj"], ["down_proj", "lm_head"], EVERYWHERE, ["embed_tokens", "q_proj"]])
def test_names_of_its_own_are_mapped(tmp_path, targets):
    from demask_hf.models.llada.adapters import adapter_config

    expected = save_official(tmp_path, targets)
    for model in (wrapped(tmp_path, config=adapter_config(str(tmp_path))), loaded(tmp_path)):
        torch.testing.assert_close(model(IDS).logits, expected)


def test_ranks_of_single_modules_are_mapped(tmp_path):
    expected = save_official(
        tmp_path,
        ["o_proj", "q_proj", "gate_proj"],
        rank_pattern={"o_proj": 2, "model.layers.1.mlp.gate_proj": 3},
        alpha_pattern={"o_proj": 7},
    )
    torch.testing.assert_close(loaded(tmp_path)(IDS).logits, expected)


def test_a_folder_of_an_adapter_loads_by_itself(tmp_path):
    build().save_pretrained(tmp_path / "base")
    expected = save_official(tmp_path / "adapter", EVERYWHERE)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(tmp_path / "base")}))
    torch.testing.assert_close(AutoModel.from_pretrained(tmp_path / "adapter")(IDS).logits, expected)


def test_without_mapped_targets_an_adapter_is_refused(tmp_path):
    save_official(tmp_path, EVERYWHERE)
    message = (
        r"An adapter must arrive whole in a LLaDAModelLM, got one that has 14 tensors \(lm_head\.lora_A\.weight, .*\) "
        r"without a place in the model: one trained on LLaDA's own code is loaded by `model\.load_adapter`, or with "
    )
    with pytest.raises(ValueError, match=message):
        wrapped(tmp_path)
    save_official(tmp_path, ["o_proj"])
    with pytest.raises(ValueError, match=r"Target modules \{'attn_out'\} not found in the base model"):
        wrapped(tmp_path)


def test_a_pattern_of_targets_is_refused(tmp_path):
    save_official(tmp_path, ["o_proj"])
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "target_modules": r".*blocks\.\d+\.attn_out"}))
    message = r"`target_modules` must be a list of names in an adapter trained on LLaDA's own code, got the pattern"
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path)


@pytest.mark.parametrize("kind", ["dream", "llada"])
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_an_adapter_arrives_whole(tmp_path, kind, is_wrapped):
    classes = {"dream": (DreamModel, DreamConfig), "llada": (LLaDAModelLM, LLaDAConfig)}[kind]
    trained = peft.get_peft_model(build(*classes), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    trained.save_pretrained(tmp_path)

    def load():
        model = build(*classes)
        if is_wrapped:
            return peft.PeftModel.from_pretrained(model, tmp_path)
        model.load_adapter(str(tmp_path))
        return model

    torch.testing.assert_close(load()(IDS).logits, trained(IDS).logits)
    name = classes[0].__name__
    change_tensors(tmp_path, dropped=["layers.1.self_attn.q_proj.lora_B"])
    message = (
        rf"An adapter must arrive whole in a {name}, got one that lacks 1 tensor \(.*layers\.1\.self_attn\.q_proj"
    )
    with pytest.raises(ValueError, match=message):
        load()
    trained.save_pretrained(tmp_path)
    change_tensors(tmp_path, added=["base_model.model.model.layers.1.self_attn.o_proj.lora_A.weight"])
    with pytest.raises(
        ValueError, match=rf"whole in a {name}, got one that has 1 tensor \(.*o_proj.*\) without a place"
    ):
        load()
