import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from demask_hf import DemaskGenerationConfig, DreamConfig, DreamModel


AUTO_CLASSES = [AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM]
ATTENTION = ["sdpa", "eager"]
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("attention_mask", [None, torch.ones(1, 6, dtype=torch.long)], ids=["no-mask", "ones"])
def test_last_token_changes_the_first_logits(make_dream, attention, attention_mask):
    model = make_dream(attn_implementation=attention)
    assert model.config._attn_implementation == attention
    changed = IDS.clone()
    changed[0, -1] = 11
    before, after = (model(ids, attention_mask=attention_mask).logits[0, 0] for ids in (IDS, changed))
    assert (before - after).abs().max() > 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("attention", [*ATTENTION, "flash_attention_2"])
def test_last_token_changes_the_first_logits_on_a_gpu(make_dream, attention):
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn", reason="needs the flash_attn package")
    model = make_dream(attn_implementation=attention).to("cuda", torch.bfloat16)
    changed = IDS.clone()
    changed[0, -1] = 11
    before, after = (model(ids.cuda()).logits[0, 0].float() for ids in (IDS, changed))
    assert (before - after).abs().max() > 1e-2


def test_attention_backends_agree(make_dream):
    padded = torch.tensor([[0, 0, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14]])
    attention_mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    outputs = [
        make_dream(attn_implementation=attention)(padded, attention_mask=attention_mask).logits
        for attention in ATTENTION
    ]
    is_real = attention_mask.bool()
    torch.testing.assert_close(outputs[0][is_real], outputs[1][is_real], atol=1e-4, rtol=0)


def test_without_attention_mask_every_position_is_attended(dream):
    pad = dream.config.pad_token_id
    ids = torch.tensor([[pad, pad, 5, 6, 7]])
    plain = dream(ids).logits
    torch.testing.assert_close(plain, dream(ids, attention_mask=torch.ones_like(ids)).logits, atol=1e-5, rtol=0)
    masked = dream(ids, attention_mask=torch.tensor([[0, 0, 1, 1, 1]])).logits
    assert (plain - masked)[0, 2:].abs().max() > 1e-2


@pytest.mark.parametrize("attention", ATTENTION)
def test_left_padded_rows_equal_rows_alone(make_dream, attention):
    model = make_dream(attn_implementation=attention)
    rows = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]
    padded = torch.tensor([[0] * (6 - len(row)) + row for row in rows])
    attention_mask = torch.tensor([[0] * (6 - len(row)) + [1] * len(row) for row in rows])
    together = model(padded, attention_mask=attention_mask).logits
    for index, row in enumerate(rows):
        alone = model(torch.tensor([row])).logits[0]
        torch.testing.assert_close(together[index, -len(row) :], alone, atol=1e-4, rtol=0)


def test_embeddings_can_be_given_instead_of_ids(dream):
    embeddings = dream.get_input_embeddings()(IDS)
    torch.testing.assert_close(dream(inputs_embeds=embeddings).logits, dream(IDS).logits)


def test_ids_and_embeddings_exclude_each_other(dream):
    with pytest.raises(ValueError, match="`input_ids` or `inputs_embeds` must be given, and not both"):
        dream.model(IDS, inputs_embeds=dream.get_input_embeddings()(IDS))
    with pytest.raises(ValueError, match="`input_ids` or `inputs_embeds` must be given, and not both"):
        dream.model()


def test_loss_reads_the_output_one_position_earlier(dream):
    labels = torch.full_like(IDS, -100)
    labels[0, 3], labels[0, 5] = 8, 10
    output = dream(IDS, labels=labels)
    log_probabilities = output.logits[0].log_softmax(dim=-1)
    expected = -(log_probabilities[2, 8] + log_probabilities[4, 10]) / 2
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(make_dream, use_reentrant):
    gradients = []
    for is_checkpointed in (False, True):
        model = make_dream().train()
        if is_checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            assert model.is_gradient_checkpointing
        model(IDS, labels=IDS).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=lambda message, name=name: f"{name}: {message}")


def _qwen2_names(num_layers):
    """Return the tensor names of an untied Qwen2 with biases on query, key and value."""
    names = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for layer in range(num_layers):
        parts = ["input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.o_proj.weight"]
        parts += [f"self_attn.{part}_proj.{kind}" for part in "qkv" for kind in ("weight", "bias")]
        parts += [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
        names |= {f"model.layers.{layer}.{part}" for part in parts}
    return names


@pytest.fixture(scope="module")
def full_size():
    """Build Dream-7B from its defaults on the meta device."""
    with torch.device("meta"):
        return DreamModel(DreamConfig())


def test_full_size_model_has_the_339_tensors_of_the_hub_checkpoint(full_size):
    names = set(full_size.state_dict())
    assert len(names) == 339
    assert names == _qwen2_names(28)
    assert full_size.num_parameters() == 7_615_616_512


def test_tensor_names_equal_those_of_the_hub_index(full_size, hub_dream):
    index = hub_dream / "model.safetensors.index.json"
    if not index.is_file():
        pytest.skip("needs the tensor index of the Hub's Dream checkpoint")
    content = json.loads(index.read_text())
    assert set(full_size.state_dict()) == set(content["weight_map"])
    assert full_size.num_parameters() * 2 == content["metadata"]["total_size"]


def test_defaults_are_those_of_the_hub_config(hub_dream):
    hub, ours = json.loads((hub_dream / "config.json").read_text()), DreamConfig()
    names = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    names += ["num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings"]
    names += ["bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "attention_dropout", "model_type"]
    assert {name: getattr(ours, name) for name in names} == {name: hub[name] for name in names}
    assert ours.rope_parameters["rope_theta"] == hub["rope_theta"]


def test_hub_config_loads_without_its_remote_code(hub_dream):
    for trust in (None, False, True):
        config = AutoConfig.from_pretrained(hub_dream, trust_remote_code=trust)
        assert type(config) is DreamConfig
        assert config.rope_parameters["rope_theta"] == 1e6
        assert config.is_causal is False


@pytest.mark.parametrize("auto_class", AUTO_CLASSES, ids=lambda auto_class: auto_class.__name__)
def test_a_saved_checkpoint_loads_again_in_one_line(make_dream, tmp_path, auto_class):
    model = make_dream()
    model.save_pretrained(tmp_path)
    loaded = auto_class.from_pretrained(tmp_path)
    assert type(loaded) is DreamModel
    assert not loaded.training
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_a_saved_config_points_to_no_remote_code(make_dream, tmp_path):
    remote = {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"}
    make_dream(auto_map=remote).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "auto_map" not in saved
    assert saved["model_type"] == "Dream"
    assert saved["architectures"] == ["DreamModel"]
    assert saved["mask_token_id"] == 1
    assert saved["is_causal"] is False


def test_the_hub_config_is_saved_without_its_remote_code(hub_dream, tmp_path):
    AutoConfig.from_pretrained(hub_dream).save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_settings_of_generate_are_saved_and_loaded_with_the_model(make_dream, tmp_path):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig(max_new_tokens=3, strategy="sequential", order="margin")
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded.generation_config, DemaskGenerationConfig)
    assert loaded.generation_config.max_new_tokens == 3
    assert loaded.generation_config.strategy == {"name": "sequential", "order": "margin"}


def test_a_checkpoint_without_generation_config_loads(make_dream, tmp_path):
    make_dream().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded.generation_config, DemaskGenerationConfig)
    assert loaded.generate(IDS, max_new_tokens=2).shape == (1, 8)


def test_device_map(make_dream, tmp_path):
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    model = make_dream()
    model.save_pretrained(tmp_path)
    for device_map in ("cpu", {"model": "cpu", "lm_head": "cpu"}):
        loaded = AutoModel.from_pretrained(tmp_path, device_map=device_map)
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
        assert torch.equal(loaded.generate(IDS, max_new_tokens=4), model.generate(IDS, max_new_tokens=4))


def test_offloaded_weights_decode_the_same(make_dream, tmp_path):
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    model = make_dream()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(
        tmp_path, device_map={"model": "cpu", "lm_head": "disk"}, offload_folder=tmp_path / "offload"
    )
    assert torch.equal(loaded.generate(IDS, max_new_tokens=4), model.generate(IDS, max_new_tokens=4))


def test_half_precision(make_dream, tmp_path):
    make_dream().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded(IDS).logits.dtype == torch.bfloat16
    single = AutoModel.from_pretrained(tmp_path)(IDS).logits
    assert (loaded(IDS).logits.float() - single).abs().max() < 0.1 * single.abs().max()
    assert loaded.generate(IDS, max_new_tokens=4).shape == (1, 10)


@pytest.mark.parametrize("trust_remote_code", [None, False])
def test_hub_tokenizer_loads_without_remote_code(hub_dream, trust_remote_code):
    tokenizer = AutoTokenizer.from_pretrained(hub_dream, trust_remote_code=trust_remote_code)
    assert type(tokenizer).__name__ == "DreamTokenizer"
    assert tokenizer.convert_tokens_to_ids("<|mask|>") == tokenizer.mask_token_id == 151666
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 151643
    assert tokenizer.bos_token_id == 151665
    text = "Dependencies, e.g. 12 + 34 = 46 — naïve? 是的。"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("a<|mask|>b")["input_ids"][1] == 151666


def test_hub_tokenizer_has_a_chat_template(hub_dream):
    tokenizer = AutoTokenizer.from_pretrained(hub_dream)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
