"""LLaDA-MoE: the stock class with a full mask, recorded logits and decodes of the public code, names, refusals."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from demask_hf import LLaDAConfig, LLaDAModelLM, LLaDAMoEConfig, LLaDAMoEModelLM


CHECKPOINTS = ["llada-moe", "llada-moe-options"]
SIZES = {"vocab_size": 24, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_experts": 4}
SIZES |= {"num_key_value_heads": 2, "num_experts_per_tok": 2, "expert_intermediate_size": 16, "mask_token_id": 1}
SIZES |= {"dense_intermediate_size": 48, "pad_token_id": 0, "eos_token_id": 2, "initializer_range": 0.3}

every_checkpoint = pytest.mark.parametrize("name", CHECKPOINTS)


def build(**fields):
    torch.manual_seed(0)
    return LLaDAMoEModelLM(LLaDAMoEConfig(**{**SIZES, **fields})).eval()


@pytest.fixture
def published(siblings, tmp_path):
    """Return a function from a checkpoint's name to a folder whose config says `model_type: "llada"`."""

    def copied(name):
        shutil.copyfile(siblings / "checkpoints" / name / "model.safetensors", tmp_path / "model.safetensors")
        shutil.copyfile(siblings / "checkpoints" / name / "config.as_published.json", tmp_path / "config.json")
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llada"
        return tmp_path

    return copied


def _close(found, expected):
    # Logits are as large as 27: on another processor than that of the recording, the stock class differs as much.
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@every_checkpoint
def test_recorded_logits_are_reproduced(name, siblings):
    model = AutoModel.from_pretrained(siblings / "checkpoints" / name).eval()
    recorded = load_file(siblings / f"{name}_logits.safetensors")
    with torch.no_grad():
        output = model(recorded["nomask.input_ids"], output_hidden_states=True, output_router_logits=True)
        padded = model.model(
            recorded["padded.input_ids"],
            attention_mask=recorded["padded.attention_mask"],
            position_ids=recorded["padded.position_ids"],
        ).last_hidden_state
    _close(output.logits, recorded["nomask.logits"])
    _close(output.hidden_states[-1], recorded["nomask.hidden"])
    router = [recorded[key] for key in sorted(recorded) if key.startswith("nomask.router_logits")]
    assert len(output.router_logits) == len(router) == len(model.model.layers) - len(model.config.mlp_only_layers)
    for found, expected in zip(output.router_logits, router, strict=True):
        _close(found, expected)
    is_real = recorded["padded.attention_mask"].bool()
    _close(padded[is_real], recorded["padded.hidden"][is_real])
    _close(model.lm_head(padded)[..., ::8][is_real], recorded["padded.logits_every8"][is_real])


def test_recorded_decodes_are_reproduced(siblings, reproduces_mdlm):
    model = AutoModel.from_pretrained(siblings / "checkpoints" / "llada-moe").eval()
    assert reproduces_mdlm(model, json.loads((siblings / "llada-moe_decode.json").read_text())) == 27


@every_checkpoint
def test_a_published_config_makes_a_llada_moe(name, published):
    folder = published(name)
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is LLaDAMoEConfig
    assert config.model_type == "lladamoe"
    assert config.norm_topk_prob is False
    for auto_class in (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM):
        assert type(auto_class.from_pretrained(folder)) is LLaDAMoEModelLM


@every_checkpoint
def test_a_copy_has_the_tensors_of_the_checkpoint(name, published, tmp_path):
    folder = published(name)
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "again")
    given, saved = load_file(folder / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert saved.keys() == given.keys()
    assert all(torch.equal(saved[name], given[name]) for name in given)
    before, after = (AutoConfig.from_pretrained(one).to_dict() for one in (folder, tmp_path / "again"))
    assert {**after, "_name_or_path": before["_name_or_path"]} == before
    assert after["num_experts"] == (8 if name == "llada-moe" else 4)


def test_the_dense_class_refuses_it(published):
    message = "`pretrained_model_name_or_path` must hold a LLaDAModelLM, got '.*' with a LLaDAMoEConfig"
    with pytest.raises(ValueError, match=message):
        LLaDAModelLM.from_pretrained(published("llada-moe"))


@pytest.mark.parametrize("architectures", [None, ["LLaDAMoEModelLM"]])
def test_experts_or_the_name_tell_it_from_llada(architectures):
    fields = {"model_type": "llada", "architectures": architectures, **SIZES}
    assert type(LLaDAConfig.from_dict(fields)) is LLaDAMoEConfig
    for fields in ({}, {"num_experts": None}, {"architectures": ["LLaDAModelLM"]}):
        assert type(LLaDAConfig.from_dict({"model_type": "llada", "d_model": 32, **fields})) is LLaDAConfig


def test_logits_are_those_of_the_stock_class_with_a_full_mask():
    model = build()
    fields = {name: value for name, value in model.config.to_dict().items() if name not in ("model_type", "is_causal")}
    stock = Qwen3MoeForCausalLM(Qwen3MoeConfig(**fields)).eval()
    stock.load_state_dict(model.state_dict())
    ids = torch.tensor([[3, 4, 1, 5, 1, 1], [6, 1, 7, 8, 9, 1]])
    with torch.no_grad():
        expected = stock(ids, attention_mask=torch.ones(2, 1, 6, 6, dtype=torch.bool)).logits
        assert torch.equal(model(ids).logits, expected)
        assert not torch.allclose(stock(ids).logits, expected, atol=1e-2)


@pytest.mark.parametrize("kernel", ["eager", "batched_mm", "grouped_mm"])
def test_experts_run_through_the_kernels_of_transformers(kernel):
    model = build(shared_expert_intermediate_size=16, moe_router_enable_expert_bias=True)
    assert model.config._experts_implementation == "grouped_mm"
    expected = model(torch.tensor([[3, 4, 1]])).logits
    model.set_experts_implementation(kernel)
    torch.testing.assert_close(model(torch.tensor([[3, 4, 1]])).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_bias_is_part_of_the_weight_and_nothing_is_scaled():
    """By hand: probabilities 0.6, 0.3, 0.1 and biases 0, 0, 0.4 choose the first and the third expert."""
    model = build(num_experts=3, moe_router_enable_expert_bias=True, norm_topk_prob=True)
    router = model.model.layers[0].mlp.gate
    with torch.no_grad():
        router.weight.zero_()
        router.weight[:, 0] = torch.tensor([0.6, 0.3, 0.1]).log()
        router.expert_bias.copy_(torch.tensor([0.0, 0.0, 0.4]))
    _, weights, experts = router(torch.eye(32)[:1])
    assert experts.tolist() == [[0, 2]]
    torch.testing.assert_close(weights, torch.tensor([[0.6, 0.5]]))


def test_attentions_can_be_read():
    output = build(attn_implementation="eager")(torch.tensor([[3, 4, 1]]), output_attentions=True)
    assert [tuple(attention.shape) for attention in output.attentions] == [(1, 4, 3, 3)] * 2
    torch.testing.assert_close(output.attentions[0].sum(dim=-1), torch.ones(1, 4, 3))


@pytest.mark.parametrize("settings", [{"strategy": "dapd"}, {"strategy": "wino"}, {"block_cache": "dual"}])
def test_attention_shadows_and_caches_decode(settings):
    ids = torch.tensor([[3, 4], [5, 6]])
    answer = build().generate(ids, max_new_tokens=8, **{"strategy": "threshold", "block_length": 4, **settings})
    assert answer.shape == (2, 10)
    assert not (answer == 1).any()


def test_the_loss_reads_the_output_at_the_position_itself():
    model, labels = build(), torch.tensor([[-100, -100, 7]])
    output = model(torch.tensor([[3, 4, 1]]), labels=labels)
    torch.testing.assert_close(output.loss, -output.logits[0, 2].log_softmax(dim=-1)[7])


def test_the_mask_token_of_the_model_card_is_the_default():
    assert LLaDAMoEConfig().mask_token_id == 156895
    assert LLaDAMoEConfig(mask_token_id=5).mask_token_id == 5
    assert LLaDAMoEConfig(vocab_size=100).mask_token_id is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("clip_qkv", 8.0, "`clip_qkv` must be None in the config of a LLaDA-MoE, got 8.0"),
        ("attention_bias", True, "`attention_bias` must be False in the config of a LLaDA-MoE, got True"),
        ("moe_layer_freq", [1], r"`moe_layer_freq` must be a list with 1 or 0 for each of the 2 layers, got \[1\]"),
        ("moe_layer_freq", 2, "`moe_layer_freq` must be a list with 1 or 0 for each of the 2 layers, got 2"),
        ("use_sliding_window", True, "`use_sliding_window` must be False in the config of a LLaDA-MoE, got True"),
        ("num_experts_per_tok", 5, r"`num_experts_per_tok` must be in \[1, 4\], got 5"),
        ("num_experts", 1 << 20, r"`num_experts` must be in \[1, 16384\], got 1048576"),
        ("num_experts", "8", "`num_experts` must be of type int, got '8'"),
        ("mm_projector_type", "mlp", "`mm_projector_type` must not be set in the config of a LLaDAMoEModelLM"),
        ("architectures", ["X"], r"`architectures` must be \['LLaDAMoEModelLM'\] in a config with `model_type`"),
    ],
)
def test_what_no_llada_moe_has_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        LLaDAMoEConfig(**{**SIZES, field: value})


def test_a_config_that_contradicts_its_tensors_is_refused(tmp_path):
    build().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "num_experts": 8, "moe_intermediate_size": 16}))
    with pytest.raises(ValueError, match="`num_experts` must be 4 in the config of '.*', as its tensors say, got 8"):
        AutoModel.from_pretrained(tmp_path)
