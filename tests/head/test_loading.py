"""A head is loaded whole, from safetensors files of its own folder, or refused in one sentence."""

import json
import shutil
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import peft
import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedModel
from transformers.integrations.peft import MIN_PEFT_VERSION

from demask_hf import DemaskHead
from demask_hf.cli.export import trained_head
from demask_hf.head.adapters import add_lora, load_merged
from demask_hf.head.loading import load_head


@pytest.fixture
def folder(make_dream, make_head, tmp_path):
    make_head(make_dream()).save_pretrained(tmp_path / "head")
    return tmp_path / "head"


@pytest.fixture
def adapter(folder, tmp_path):
    add_lora(DemaskHead.from_pretrained(folder)).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def change_tensors(folder, file="model.safetensors", **changed):
    tensors = load_file(folder / file)
    tensors |= {name.replace("__", "."): value for name, value in changed.items()}
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / file, {"format": "pt"})


def shard(folder, name):
    """Replace the weights by an index that names a file."""
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def refused(folder, message, load=load_head):
    with pytest.raises((ValueError, OSError), match=message) as caught:
        load(str(folder))
    assert str(caught.value).startswith("`")
    assert "\n" not in str(caught.value)


EVERY_WAY = pytest.mark.parametrize(
    "load", [load_head, DemaskHead.from_pretrained, AutoModel.from_pretrained, lambda path: trained_head(path)[0]]
)


@EVERY_WAY
@pytest.mark.parametrize("name", ["weights.bin", "../outside.bin", "../outside.safetensors", "sub/x.safetensors", 5])
def test_an_index_names_safetensors_files_of_its_folder_only(folder, trap, load, name):
    whole = (folder / "model.safetensors").read_bytes()
    shard(folder, name)
    (folder / "sub").mkdir()
    for place in ("weights.bin", "../outside.bin"):
        (folder / place).write_bytes(trap)
    for place in ("../outside.safetensors", "sub/x.safetensors"):
        (folder / place).write_bytes(whole)
    refused(folder, rf"must have its weights in safetensors files of its own folder, got {name!r} in '.*'\.$", load)


@EVERY_WAY
def test_shards_in_the_folder_are_loaded(folder, load):
    expected = load_file(folder / "model.safetensors")
    shutil.copyfile(folder / "model.safetensors", folder / "one.safetensors")
    shard(folder, "one.safetensors")
    found = load(str(folder)).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("load", [load_head, load_merged, DemaskHead.from_pretrained, lambda path: trained_head(path)])
def test_pickled_adapters_are_never_read(adapter, trap, load):
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(trap)
    with pytest.raises((ValueError, OSError), match=r"safetensors"):
        load(str(adapter))


def test_a_config_does_not_lead_to_other_files(folder, trap):
    (folder / "adapter_model.bin").write_bytes(trap)
    change_config(folder, transformers_weights="adapter_model.bin")
    refused(folder, r"in safetensors files of its own folder, got 'adapter_model\.bin'")
    refused(folder, r"in safetensors files of its own folder, got 'adapter_model\.bin'", DemaskHead.from_pretrained)


def test_another_format_cannot_be_asked_for(folder, trap):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(trap)
    with pytest.raises(ValueError, match="`use_safetensors` must be True for a dependency head, got False"):
        DemaskHead.from_pretrained(folder, use_safetensors=False, weights_only=False)


# Before 5.18 transformers refuses every adapter with whole modules, and the newest may ask for a newer PEFT.
IS_OLD = Version(transformers.__version__) < Version("5.18") or Version(peft.__version__) < Version(MIN_PEFT_VERSION)
LOADERS = (load_merged,) if IS_OLD else (load_head, load_merged)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_are_finite(folder, adapter, value):
    bad = torch.full((16,), value)
    change_tensors(folder, query__bias=bad)
    message = r"`head` must hold finite weights, got '.*' with NaN or infinity in query\.bias\.$"
    refused(folder, message)
    refused(folder, message, DemaskHead.from_pretrained)
    refused(adapter, message)
    change_tensors(folder, query__bias=torch.zeros(16))
    name = "base_model.model.query.lora_A.weight"
    change_tensors(adapter, "adapter_model.safetensors", **{name: torch.full((8, 16), value)})
    for load in LOADERS:
        refused(adapter, r"`head` must hold finite weights, got '.*' with NaN or infinity in .*query", load)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_weights_are_floating_point_numbers(folder, adapter, dtype):
    change_tensors(adapter, "adapter_model.safetensors", **{"base_model.model.query.lora_A.weight": torch.ones(8, 16)})
    change_tensors(folder, query__bias=torch.zeros(16, dtype=dtype))
    refused(folder, r"`head` must hold floating-point tensors, got '.*' with \w+ in query\.bias\.$")
    refused(adapter, r"`head` must hold floating-point tensors, got '.*' with \w+ in query\.bias\.$")


def test_tensors_without_a_place_are_refused(folder):
    change_tensors(folder, more=torch.zeros(3), much__more=torch.zeros(3))
    refused(folder, r"a dependency head and no others, got '.*' with 2 without a place in it, such as more\.$")
    refused(
        folder, r"a dependency head and no others, got '.*' with 2 .*, such as more\.$", DemaskHead.from_pretrained
    )


def test_missing_tensors_are_refused(folder):
    change_tensors(folder, query__bias=None)
    refused(folder, r"must hold every tensor of a dependency head, got '.*' without 1 of them, such as query\.bias\.$")
    refused(folder, r"must hold every tensor .* without 1 of them, such as query\.bias\.$", DemaskHead.from_pretrained)


@pytest.mark.parametrize(
    ("field", "value", "stored"),
    [
        ("backbone_hidden_size", 64, 32),
        ("width", 32, 16),
        ("num_mixing_layers", 2, 1),
        ("num_attention_heads", 4, 2),
        ("num_distance_buckets", 16, 8),
        ("reads_certainty", True, False),
    ],
)
def test_fields_that_contradict_the_weights_are_named(folder, field, value, stored):
    change_config(folder, **{field: value})
    refused(folder, rf"in its config\.json, got '.*', where `{field}` is {value} and the tensors say {stored}\.$")
    refused(folder, r"`head` must (have|hold) .*, got '.*' with", DemaskHead.from_pretrained)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 10**9, "`width` must be at most 8192, got 1000000000"),
        ("num_mixing_layers", 10**6, "`num_mixing_layers` must be at most 256, got 1000000"),
        ("max_distance", 10**12, "`max_distance` must be at most 4194304, got 1000000000000"),
        ("backbone_hidden_size", 10**9, "`backbone_hidden_size` must be at most 131072, got 1000000000"),
        ("max_distance", 2, r"`max_distance` must be above a quarter of `num_distance_buckets` \(2\), got 2"),
        ("width", "wide", "`width` must be of type int, got 'wide'"),
        ("width", None, "`width` must be of type int, got None"),
        ("width", 16.0, "`width` must be of type int, got 16.0"),
        ("logits_shift", 7, "`logits_shift` must be 0 or 1, got 7"),
        ("reads_certainty", "yes", "`reads_certainty` must be of type bool, got 'yes'"),
        ("certificate", [1], r"`certificate` must be of type dict \| None, got \[1\]"),
        ("initializer_range", -1.0, r"`initializer_range` must be in \[0, inf\), got -1.0"),
        (
            "id2label",
            3,
            "`config` must have fields of the right types, got AttributeError: |`id2label` must be of type",
        ),
    ],
)
@pytest.mark.parametrize("load", [load_head, AutoModel.from_pretrained])
def test_impossible_fields_are_refused(folder, field, value, message, load):
    change_config(folder, **{field: value})
    refused(folder, message, load)


def damaged(file, how):
    """Damage a file in one of several ways."""
    content = file.read_bytes()
    if how == "directory":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(
            {
                "cut": content[: len(content) // 2],
                "empty": b"",
                "binary": bytes(range(128, 256)) * 4,
                "list": b"[1, 2]",
                "number": b"7",
                "null": b"null",
                "deep": b"[" * 100_000,
                # A header of 2^62 bytes.
                "huge": struct.pack("<Q", 1 << 62) + content[8:],
            }[how]
        )


DAMAGES = pytest.mark.parametrize("how", ["cut", "empty", "binary", "directory", "list", "number", "null", "deep"])


@DAMAGES
def test_damaged_configs_are_refused(folder, how):
    damaged(folder / "config.json", how)
    refused(folder, r"`head` must have a JSON object in its config\.json, got '.*config\.json', which ")


@DAMAGES
def test_damaged_adapter_configs_are_refused(adapter, how):
    damaged(adapter / "adapter_config.json", how)
    for load in (load_head, load_merged):
        refused(adapter, r"must have a JSON object in its adapter_config\.json, got '.*', which ", load)


@DAMAGES
def test_damaged_indexes_are_refused(folder, how):
    shard(folder, "one.safetensors")
    damaged(folder / "model.safetensors.index.json", how)
    message = r"must have a JSON object in its model\.safetensors\.index\.json, got '.*', which "
    refused(folder, message)
    if how != "directory":
        message = r"`head` must have a `weight_map` in its index, got '.*', which is damaged \(\w+\)\.$"
        refused(folder, message, DemaskHead.from_pretrained)


@pytest.mark.parametrize("how", ["cut", "empty", "binary", "directory", "list", "huge"])
def test_damaged_weights_are_refused(folder, adapter, how):
    damaged(adapter / "adapter_model.safetensors", how)
    for load in (load_head, load_merged):
        refused(adapter, r"must have a whole adapter_model\.safetensors, got '.*', whose file is ", load)
    damaged(folder / "model.safetensors", how)
    refused(folder, r"`head` must have a whole model\.safetensors, got '.*', whose file is ")


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"], "metadata": {}}])
def test_an_index_has_its_parts(folder, index):
    shard(folder, "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "with the objects `weight_map` and `metadata`, got '.*' without them")


def test_an_index_without_its_shards_is_refused(folder):
    shard(folder, "one.safetensors")
    refused(folder, r"`head` must have a whole one\.safetensors, got '.*', whose file is no file\.$")


@pytest.mark.parametrize("base", [None, 7, ""])
def test_an_adapter_names_its_head(adapter, base):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
    refused(adapter, r"`head` must be an adapter that names its head, got '.*' with `base_model_name_or_path` ")
    refused(adapter, r"`head` must be given for an adapter that names none, got ", load_merged)


@pytest.mark.parametrize("fields", [{"r": "eight"}, {"target_modules": ["nothing"]}, {"peft_type": "UNHEARD_OF"}])
def test_an_adapter_fits_its_head(adapter, fields):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    refused(adapter, "`adapter` must fit the head '.*', got ", load_merged)
    refused(adapter, "`head` must ", load_head)


def test_an_adapter_arrives_whole(adapter):
    change_tensors(adapter, "adapter_model.safetensors", **{"base_model.model.more.lora_A.weight": torch.ones(8, 16)})
    for load in LOADERS:
        refused(adapter, r"more\.lora_A", load)


@pytest.mark.parametrize(
    "content",
    ["{", "[1]", "", '{"data": 5}', '{"metrics": {"mae": 1}}', '{"metrics": [1]}', '{"data": {}, "metrics": 3}'],
)
def test_a_damaged_training_record_is_refused(folder, content):
    (folder / "training.json").write_text(content)
    refused(folder, r"`head` must have .* training\.json", trained_head)


@pytest.mark.parametrize("name", [None, 5, ["head"]])
def test_a_head_has_a_name(name):
    with pytest.raises(ValueError, match=r"`head` must name a folder or Hub repository, got "):
        load_head(name)


def test_an_adapter_that_does_not_exist_is_refused():
    refused(
        "./missing/adapter", r"`adapter` must be a folder or Hub repository of an adapter, got '\./miss", load_merged
    )


def test_threads_build_one_model_at_a_time(folder, make_dream, tmp_path, monkeypatch):
    # While it builds one, transformers switches the tying of weights off for the whole process.
    model = make_dream()
    model.save_pretrained(tmp_path / "model")
    inside, most = [], []
    build = PreTrainedModel.from_pretrained.__func__

    def counted(cls, *args, **kwargs):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        try:
            return build(cls, *args, **kwargs)
        finally:
            inside.pop()

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(counted))
    tying = PreTrainedModel.tie_weights
    jobs = [lambda: load_head(str(folder)), lambda: type(model).from_pretrained(tmp_path / "model")] * 3
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda job: job(), jobs))
    assert most == [1] * 6
    assert PreTrainedModel.tie_weights is tying
