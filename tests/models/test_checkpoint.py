"""A native model refuses what is not its own: look-alikes, and checkpoints that are not whole."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from demask_hf import DreamConfig, DreamModel, LLaDAConfig, LLaDAModelLM


SIZES = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
SIZES |= {"mask_token_id": 1, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
CLASSES = {"Dream": (DreamModel, DreamConfig), "llada": (LLaDAModelLM, LLaDAConfig)}
# As LLaDA-MoE's config has them; it says `model_type: "llada"`.
MIXTURE = {"num_experts": 8, "num_experts_per_tok": 2, "expert_intermediate_size": 16, "moe_layer_freq": [1, 1]}
MIXTURE |= {"qk_layernorm": True, "clip_qkv": None, "partial_rotary_factor": 1, "router_aux_loss_coef": 0.01}
IDS = torch.tensor([[5, 6, 7, 8]])

both = pytest.mark.parametrize("model_type", sorted(CLASSES))


def build(model_type, **fields):
    torch.manual_seed(0)
    model, config = CLASSES[model_type]
    return model(config(**SIZES, **fields)).eval()


@pytest.fixture
def folder(model_type, tmp_path):
    build(model_type).save_pretrained(tmp_path)
    return tmp_path


def change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(folder, dropped=(), added=()):
    path = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name not in dropped}
    save_file({**tensors, **{name: torch.zeros(4) for name in added}}, path, {"format": "pt"})


@both
def test_a_config_that_names_another_class_is_refused_before_the_weights_are_read(folder, model_type):
    (folder / "model.safetensors").unlink()
    native = CLASSES[model_type][0].__name__
    change_config(folder, architectures=[f"{native}MoE"])
    message = rf"`architectures` must be \['{native}'\] in a config with `model_type` '{model_type}', got "
    for call in (AutoConfig.from_pretrained, AutoModel.from_pretrained, CLASSES[model_type][0].from_pretrained):
        with pytest.raises(ValueError, match=message + rf"\['{native}MoE'\]: {native} would compute something else"):
            call(folder)


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_experts", 8),
        ("moe_intermediate_size", 16),
        ("qk_layernorm", True),
        ("use_qk_norm", True),
        ("clip_qkv", 8.0),
        ("partial_rotary_factor", 0.5),
        ("use_mrope", True),
        ("final_logit_softcapping", 30.0),
        ("residual_multiplier", 0.2),
        ("vision_config", {"hidden_size": 8}),
        ("mm_projector_type", "mlp"),
    ],
)
def test_a_config_with_parts_that_the_class_does_not_have_is_refused(model_type, name, value):
    native, config = CLASSES[model_type]
    message = rf"`{name}` must not be set in the config of a {native.__name__}, got .*: this class has no such part"
    with pytest.raises(ValueError, match=message):
        config(**SIZES, **{name: value})


@both
@pytest.mark.parametrize("field", ["num_experts", "qk_layernorm", "partial_rotary_factor", "use_mrope", "my_note"])
@pytest.mark.parametrize("value", [None, False, 1])
def test_parts_that_are_said_to_be_absent_are_none(model_type, field, value):
    assert CLASSES[model_type][1](**SIZES, **{field: value}).hidden_size == 32


@pytest.mark.parametrize("architectures", [["LLaDAMoEModelLM"], ["LLaDAModelLM"], None])
def test_the_dense_config_refuses_experts(tmp_path, architectures):
    config = {"model_type": "llada", "architectures": architectures, **SIZES, **MIXTURE}
    message = r"`architectures` must be \['LLaDAModelLM'\]|`num_experts` must not be set"
    with pytest.raises(ValueError, match=message):
        LLaDAConfig(**config)
    # Others are those of a LLaDA-MoE, which has a class of its own.
    if architectures == ["LLaDAModelLM"]:
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            AutoModel.from_pretrained(tmp_path)


def test_the_dense_config_refuses_published_ones_of_llada_moe():
    folder = Path(__file__).resolve().parents[3] / "shared" / "siblings" / "checkpoints"
    if not folder.is_dir():
        pytest.skip("needs the checkpoints in ../shared/siblings, beside the repository")
    for path in sorted(folder.glob("llada-moe*/config*.json")):
        fields = {**json.loads(path.read_text()), "model_type": "llada"}
        with pytest.raises(ValueError, match=r"`architectures` must be \['LLaDAModelLM'\]"):
            LLaDAConfig(**fields)


@both
@pytest.mark.parametrize("architectures", [None, [], "{}", "FSDP{}"])
def test_own_configs_are_taken(folder, model_type, architectures):
    native = CLASSES[model_type][0]
    change_config(folder, architectures=architectures and [architectures.format(native.__name__)])
    assert type(AutoModel.from_pretrained(folder)) is native


@both
def test_a_subclass_loads_what_it_saved(model_type, tmp_path):
    class Changed(CLASSES[model_type][0]):
        pass

    torch.manual_seed(0)
    model = Changed(CLASSES[model_type][1](**SIZES)).eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(Changed.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


@both
def test_a_missing_tensor_is_refused(folder, model_type):
    names = sorted(load_file(folder / "model.safetensors"))
    change_tensors(folder, dropped=[name for name in names if "1" in name and "q_proj.weight" in name])
    name = CLASSES[model_type][0].__name__
    message = (
        rf"`pretrained_model_name_or_path` must hold the tensors of a {name} and no others, got '.*', which lacks 1 "
        r"tensor \(model\.layers\.1\.self_attn\.q_proj\.weight\)\."
    )
    for call in (AutoModel.from_pretrained, CLASSES[model_type][0].from_pretrained):
        with pytest.raises(ValueError, match=message):
            call(folder)


@both
def test_tensors_without_a_place_are_refused(folder, model_type):
    places = [f"model.layers.0.mlp.experts.{number}.up_proj.weight" for number in range(4)]
    change_tensors(folder, added=places)
    message = (
        r"which has 4 tensors \(model\.layers\.0\.mlp\.experts\.0\.up_proj\.weight, .*, \.\.\.\) without a place in "
        r"this class\."
    )
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(folder)


@both
def test_frequencies_in_old_checkpoints_are_no_tensors(folder, model_type):
    change_tensors(folder, added=["model.layers.0.self_attn.rotary_emb.inv_freq"])
    assert type(AutoModel.from_pretrained(folder)) is CLASSES[model_type][0]


@both
def test_a_tied_output_needs_no_tensor(model_type, tmp_path):
    model = build(model_type, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    assert not any(
        "lm_head" in name or name.endswith("r.ff_out.weight") for name in load_file(tmp_path / "model.safetensors")
    )
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)
