"""A native model is loaded from whole safetensors files of its own folder, or refused in one sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, BertConfig, BertForMaskedLM

import demask_hf
from demask_hf.models.loading import load_model


CONFIGS = {"Dream": demask_hf.DreamConfig, "llada": demask_hf.LLaDAConfig}
CLASSES = {"Dream": demask_hf.DreamModel, "llada": demask_hf.LLaDAModelLM}
SIZES = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "mask_token_id": 1, "pad_token_id": 0}
SIZES |= {"bos_token_id": 2, "eos_token_id": 2}
both = pytest.mark.parametrize("model_type", CONFIGS)


@pytest.fixture
def model_type():
    return "Dream"


@pytest.fixture
def folder(model_type, tokenizer, tmp_path):
    torch.manual_seed(0)
    CLASSES[model_type](CONFIGS[model_type](**SIZES)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def shard(folder, name):
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "whole.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def refused(folder, message, load=AutoModel.from_pretrained):
    with pytest.raises(ValueError, match=message) as caught:
        load(str(folder))
    assert str(caught.value).startswith("`")
    assert "\n" not in str(caught.value)


WAYS = pytest.mark.parametrize("load", [AutoModel.from_pretrained, lambda path: load_model(path, device="cpu")])


@both
@WAYS
@pytest.mark.parametrize("name", ["weights.bin", "../outside.bin", "../model/whole.safetensors"])
def test_an_index_names_safetensors_files_of_its_folder_only(folder, trap, load, name):
    shard(folder, name)
    (folder / "weights.bin").write_bytes(trap)
    (folder / "../outside.bin").write_bytes(trap)
    refused(folder, rf"must have its weights in safetensors files of its own folder, got {name!r} in '.*'\.$", load)


def test_an_encoder_is_loaded_from_safetensors_only(tokenizer, tmp_path, trap):
    def load(path):
        return load_model(path, device="cpu")

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=24, **sizes)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    load(str(tmp_path / "bert"))
    shard(tmp_path / "bert", "weights.bin")
    (tmp_path / "bert" / "weights.bin").write_bytes(trap)
    refused(tmp_path / "bert", "`model` must have its weights in safetensors files of its own folder", load)


def test_shards_in_the_folder_are_loaded(folder):
    shard(folder, "whole.safetensors")
    assert isinstance(AutoModel.from_pretrained(folder), demask_hf.DreamModel)


@both
def test_pickled_weights_are_never_read(folder, model_type, trap):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(trap)
    refused(
        folder, r"in model\.safetensors or model\.safetensors\.index\.json, got '.*', which has neither: other form"
    )
    with pytest.raises(ValueError, match="`use_safetensors` must be True for a .*, got False"):
        CLASSES[model_type].from_pretrained(folder, use_safetensors=False, weights_only=False)


@both
def test_a_config_does_not_lead_to_other_files(folder, trap):
    (folder / "adapter_model.bin").write_bytes(trap)
    change_config(folder, transformers_weights="adapter_model.bin")
    refused(folder, r"in safetensors files of its own folder, got 'adapter_model\.bin'")


@both
def test_pickled_adapters_are_never_read(folder, trap, tmp_path):
    peft = pytest.importorskip("peft")
    adapter = tmp_path / "adapter"
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(AutoModel.from_pretrained(folder), config).save_pretrained(adapter)
    AutoModel.from_pretrained(folder).load_adapter(str(adapter))
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(trap)
    message = r"`peft_model_id` must have an adapter_model\.safetensors, got '.*', which has none\.$"
    refused(adapter, message, AutoModel.from_pretrained(folder).load_adapter)
    refused(adapter, message, lambda path: AutoModel.from_pretrained(folder).load_adapter(peft_model_id=path))


@both
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("{", r"must have a JSON object in its adapter_config\.json, got "),
        ("[1]", r"must have a JSON object in its adapter_config\.json, got "),
        ({"r": 4}, r"`peft_model_id` must be an adapter that fits a \w+, got "),
        ({"r": "two"}, r"`peft_model_id` must be an adapter that fits a \w+, got "),
        ({"target_modules": ["nothing"]}, r"`peft_model_id` must be an adapter that fits a \w+, got "),
    ],
)
def test_damaged_adapters_are_refused(folder, tmp_path, fields, message):
    peft = pytest.importorskip("peft")
    adapter = tmp_path / "adapter"
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(AutoModel.from_pretrained(folder), config).save_pretrained(adapter)
    file = adapter / "adapter_config.json"
    file.write_text(fields if isinstance(fields, str) else json.dumps({**json.loads(file.read_text()), **fields}))
    refused(adapter, message, AutoModel.from_pretrained(folder).load_adapter)


@both
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_weights_are_floating_point_numbers(folder, dtype):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    save_file({**tensors, name: tensors[name].to(dtype)}, folder / "model.safetensors", {"format": "pt"})
    refused(folder, rf"must hold floating-point tensors, got '.*' with \w+ in {name}\.$")


@both
@pytest.mark.parametrize(
    ("field", "value"),
    [("vocab_size", 48), ("hidden_size", 64), ("intermediate_size", 96), ("num_hidden_layers", 3)]
    + [("num_key_value_heads", 4), ("num_hidden_layers", 1)],
)
def test_fields_that_contradict_the_weights_are_named(folder, field, value):
    change_config(folder, **{field: value}, layer_types=None)
    refused(folder, rf"`{field}` must be {SIZES[field]} in the config of '.*', as its tensors say, got {value}\.$")


@both
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", 10**9, r"`hidden_size` must be in \[1, 131072\], got 1000000000\.$"),
        ("num_hidden_layers", 10**6, r"`num_hidden_layers` must be in \[1, 1024\], got 1000000\.$"),
        ("hidden_size", "wide", r"`hidden_size` must be of type int, got 'wide'\.$"),
        ("mask_token_id", [1], r"`mask_token_id` must be of type int \| None, got \[1\]\.$"),
        ("architectures", 5, r"must have fields that fit together, got TypeError: |`architectures` must be of type"),
        ("id2label", 3, r"must have fields that fit together, got AttributeError: |`id2label` must be of type"),
        ("rope_parameters", [1], r"`rope_parameters` must be of type .*, got \[1\]\.$"),
        (
            "rope_parameters",
            {"rope_type": "default", "rope_theta": "y"},
            r"`rope_theta` must be a number in \(0, inf\), g",
        ),
        ("rms_norm_eps", "small", r"`rms_norm_eps` must be of type float, got 'small'\.$"),
    ],
)
@pytest.mark.parametrize("load", [AutoConfig.from_pretrained, AutoModel.from_pretrained])
def test_impossible_fields_are_refused(folder, field, value, message, load):
    change_config(folder, **{field: value})
    refused(folder, message, load)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"`LLaDAConfig` must have fields that fit together, got ValueError: The hidden"
    ):
        demask_hf.LLaDAConfig(num_attention_heads=7)
    with pytest.raises(ValueError, match=r"`hidden_size` must be of type int, got 'x'\.$"):
        demask_hf.DreamConfig().hidden_size = "x"


def test_an_unknown_activation_is_refused(folder):
    change_config(folder, hidden_act="unheard_of")
    refused(folder, r"`hidden_act` must be an activation of transformers, got 'unheard_of'\.$")


@both
@pytest.mark.parametrize("how", ["cut", "empty", "binary", "directory", "list"])
def test_damaged_weights_are_refused(folder, how):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    if how == "directory":
        file.mkdir()
    else:
        contents = {"cut": content[:5000], "empty": b"", "binary": bytes(range(256)) * 4, "list": b"[1, 2]"}
        file.write_bytes(contents[how])
    refused(folder, r"must have a whole model\.safetensors, got '.*', whose file is ")


@both
@pytest.mark.parametrize("content", [b"{", b"", b"\x80\x81", b"[1]", b"null", None])
def test_damaged_configs_are_refused(folder, model_type, content):
    (folder / "config.json").unlink()
    if content is None:
        (folder / "config.json").mkdir()
    else:
        (folder / "config.json").write_bytes(content)
    refused(
        folder, r"must have a JSON object in its config\.json, got '.*', which ", CLASSES[model_type].from_pretrained
    )
    refused(folder, r"`model` must have a JSON object in its config\.json, got ", lambda path: load_model(path))


@both
def test_tensors_of_other_shapes_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "norm" in name)
    save_file({**tensors, name: torch.zeros(7)}, folder / "model.safetensors", {"format": "pt"})
    refused(folder, r"must hold tensors of the shapes in its config\.json, got '.*' with other shapes\.$")
