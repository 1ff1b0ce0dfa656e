import json
import shutil

import peft
import pytest
import torch
import transformers
from packaging.version import Version
from peft import PeftModel
from transformers.integrations.peft import MIN_PEFT_VERSION

from demask_hf import DemaskHead
from demask_hf.head.adapters import add_lora, load_merged
from demask_hf.head.loading import load_head
from demask_hf.training.prompts import TokenizedPrompt
from demask_hf.training.states import CollectionSettings, MeasuredStates
from demask_hf.training.trainer import train_head


PROMPTS = [TokenizedPrompt((3, 4, 5)[: 1 + row % 3], (6, 7, 8, 9)[: 1 + row % 4]) for row in range(7)]
# Before, transformers itself leaves out what an adapter keeps whole; `load_merged` and PEFT do not.
loads_whole_modules = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"), reason="transformers loads modules_to_save since 5.18"
)
# The newest transformers may ask for a PEFT that is not there yet.
takes_this_peft = pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"transformers loads adapters with {MIN_PEFT_VERSION}",
)
SETTINGS = CollectionSettings(num_states=16, answer_length=6, batch_size=16)


@pytest.fixture(scope="module")
def examples(dream):
    return MeasuredStates(dream, PROMPTS, SETTINGS).__getitems__(range(16))


@pytest.fixture(scope="module")
def folders(dream_with_head, examples, tmp_path_factory):
    """Return the folders of a head and of an adapter trained on it."""
    folder = tmp_path_factory.mktemp("finetuning")
    dream_with_head.demask_head.save_pretrained(folder / "head")
    adapted = add_lora(DemaskHead.from_pretrained(folder / "head"), rank=2)
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    arguments = {"max_steps": 6, "learning_rate": 0.05, "disable_tqdm": True, "save_strategy": "no"}
    train_head(adapted, examples, examples, folder / "checkpoints", **arguments)
    # On a machine with a GPU the training leaves it there.
    after = adapted.cpu().state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("lora_" in name or "modules_to_save" in name for name in changed)
    adapted.save_pretrained(folder / "adapter")
    return folder / "head", folder / "adapter"


def _predict(head, example):
    with torch.no_grad():
        return head(example.hidden_states[None], example.positions[None]).dependencies


def test_the_adapter_is_saved_alone(folders):
    head, adapter = folders
    sizes = [folder / name for folder, name in ((head, "model.safetensors"), (adapter, "adapter_model.safetensors"))]
    assert not (adapter / "model.safetensors").exists()
    assert all(file.stat().st_size > 0 for file in sizes)


def test_an_adapter_is_merged_with_its_head_by_every_version_of_transformers(folders, examples):
    head, adapter = folders
    example = max(examples, key=lambda example: example.positions.numel())
    wrapped = PeftModel.from_pretrained(DemaskHead.from_pretrained(head), adapter).eval()
    merged = load_merged(adapter).eval()
    torch.testing.assert_close(_predict(merged, example), _predict(wrapped, example), atol=1e-5, rtol=0)


def test_an_adapter_whose_tensors_do_not_all_arrive_is_refused(folders, monkeypatch):
    loaded = DemaskHead.from_pretrained

    def without_the_scorer(*args, **kwargs):
        head, info = loaded(*args, **kwargs)
        return head, {**info, "missing_keys": {"scorer.modules_to_save.default.bias"}}

    monkeypatch.setattr(DemaskHead, "from_pretrained", without_the_scorer)
    message = (
        r"without 1 of them, such as scorer\.modules_to_save\.default\.bias \(transformers before 5\.18 leaves them "
    )
    with pytest.raises(ValueError, match=message + r"out: use `load_merged\(adapter\)`\)\."):
        load_head(str(folders[1]))


@loads_whole_modules
@takes_this_peft
def test_every_way_to_load_an_adapter_predicts_the_same(folders, examples):
    head, adapter = folders
    example = max(examples, key=lambda example: example.positions.numel())
    base = DemaskHead.from_pretrained(head).eval()
    wrapped = PeftModel.from_pretrained(DemaskHead.from_pretrained(head), adapter).eval()
    expected = _predict(wrapped, example)
    assert (expected - _predict(base, example)).abs().max() > 1e-3
    loaded = DemaskHead.from_pretrained(head)
    loaded.load_adapter(str(adapter))
    merged = load_merged(adapter)
    assert not any("lora" in name for name in merged.state_dict())
    for other in (loaded.eval(), DemaskHead.from_pretrained(adapter).eval(), merged.eval()):
        torch.testing.assert_close(_predict(other, example), expected, atol=1e-5, rtol=0)


@loads_whole_modules
@takes_this_peft
def test_decoding_works_with_base_adapter_and_merged_head(make_dream, folders):
    head, adapter = folders
    model, ids = make_dream(), torch.tensor([[3, 4, 5]])

    def decode():
        output = model.generate(ids, max_new_tokens=8, strategy="demask", return_dict_in_generate=True)
        return output.sequences.tolist(), output.unmask_step.tolist()

    wrapped = PeftModel.from_pretrained(DemaskHead.from_pretrained(head), adapter)
    model.set_demask_head(wrapped)
    expected = decode()
    assert not model.demask_head.training
    model.set_demask_head(load_merged(adapter))
    assert decode() == expected
    model.load_demask_head(str(adapter))
    assert decode() == expected
    model.load_demask_head(str(head)).load_adapter(str(adapter))
    assert decode() == expected
    assert all("demask_head" not in name for name in model.state_dict())


def test_an_adapted_head_for_another_backbone_is_refused(make_dream, folders):
    wrapped = PeftModel.from_pretrained(DemaskHead.from_pretrained(folders[0]), folders[1])
    with pytest.raises(ValueError, match=r"`head` must be made for this backbone"):
        make_dream(hidden_size=16).set_demask_head(wrapped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, r"`rank` must be an integer of at least 1, got 0\."),
        ({"dropout": 1.0}, r"`dropout` must be a number in \[0, 1\), got 1\.0\."),
        ({"targets": ["query", "norm"]}, r"`targets` must be among input_projection, .*, got 'norm'\."),
        ({"modules_to_save": ["out"]}, r"`modules_to_save` must be among .*, got 'out'\."),
    ],
)
def test_bad_options_are_refused(dream_with_head, options, message):
    with pytest.raises(ValueError, match=message):
        add_lora(dream_with_head.demask_head, **options)


def test_an_adapter_without_the_name_of_its_head_needs_one(make_head, make_dream, folders, tmp_path):
    add_lora(make_head(make_dream())).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`head` must be given for an adapter that names none, got "):
        load_merged(tmp_path)
    assert isinstance(load_merged(tmp_path, folders[0]), DemaskHead)


@takes_this_peft
def test_a_certificate_does_not_outlive_training_or_an_adapter(folders, examples, tmp_path):
    head, adapter = (shutil.copytree(folder, tmp_path / folder.name) for folder in folders)
    facts = json.loads((head / "config.json").read_text())
    (head / "config.json").write_text(json.dumps({**facts, "certificate": {"dependency_bound": 0.2}}))
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(head)}))
    assert load_head(str(head)).config.certificate == {"dependency_bound": 0.2}
    if Version(transformers.__version__) >= Version("5.18"):
        assert load_head(str(adapter)).config.certificate is None
    assert load_merged(adapter).config.certificate is None
    for trained in (load_head(str(head)), add_lora(load_head(str(head)), rank=2)):
        train_head(trained, examples, examples, tmp_path / "checkpoints", max_steps=1, save_strategy="no")
        assert trained.config.certificate is None
