"""Folders of results: what they depend on must stay the same, and one process writes to them at a time."""

import json
import shutil

import pytest
import torch

import demask_hf
from demask_hf.locking import locked


COLLECT = ("--num-states", 6, "--states-per-shard", 3, "--estimator", "argmax", "--device", "cpu")
EVALUATE = ("--task", "pairs", "--num-prompts", 2, "--device", "cpu", "--max-new-tokens", 4, "--strategy", "threshold")


@pytest.fixture
def model(files, tmp_path):
    """Return a copy of the model's folder that a test may change."""
    return shutil.copytree(files / "model", tmp_path / "model")


@pytest.fixture
def collect(run, files, model, tmp_path):
    """Return a function that collects into one folder."""

    def collect(*arguments, path=model):
        return run(
            *("collect", "--model", path, "--data", files / "train.jsonl", "--out", tmp_path / "states"),
            *(*COLLECT, *arguments),
        )

    return collect


@pytest.fixture
def shipped(run, tmp_path):
    """Return a function that runs a command on the shipped checkpoint, into one folder."""

    def shipped(command, *arguments):
        options = ("--compare", "threshold", "--num-validation", 0) if command == "benchmark" else EVALUATE[-2:]
        return run(command, "--out", tmp_path / "out", *EVALUATE[:-2], *options, *arguments)

    return shipped


def _change_last_weight(folder):
    """Add a little to the last number of the last layer, and store the model in place."""
    model = demask_hf.DreamModel.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.view(-1)[-1] += 1e-3
    model.save_pretrained(folder)


def _refused(result, *parts):
    code, out, err = result
    assert code == 2, err
    assert err.splitlines()[-1].startswith("demask-hf: error: `out` must be a new folder or one of the same ")
    for part in parts:
        assert part in err.splitlines()[-1]


def test_a_collection_belongs_to_its_weights(collect, model):
    assert collect()[0] == 0
    _change_last_weight(model)
    _refused(collect(), "with weights.model '")


def test_a_collection_belongs_to_its_number_format_and_head(collect, model, head):
    assert collect()[0] == 0
    _refused(collect("--dtype", "bfloat16"), "with dtype 'torch.float32' instead of 'torch.bfloat16'")
    _refused(collect("--head", head), "with configuration.head None instead of '")


def test_a_collection_belongs_to_its_version(collect, monkeypatch):
    assert collect()[0] == 0
    monkeypatch.setattr(demask_hf, "__version__", "0.2.0")
    _refused(collect(), "with version '0.1.0' instead of '0.2.0'")


def test_states_without_their_facts_are_not_adopted(collect, tmp_path):
    assert collect()[0] == 0
    (tmp_path / "states" / "collection.json").unlink()
    _refused(collect(), "with shard-0000", "but without collection.json")


@pytest.mark.parametrize("command", ["evaluate", "benchmark"])
def test_records_belong_to_their_model_seed_and_number_format(shipped, command):
    assert shipped(command)[0] == 0
    assert shipped(command)[0] == 0
    _refused(shipped(command, "--seed", 1), "with seed 0 instead of 1")
    _refused(shipped(command, "--dtype", "bfloat16"), "with dtype 'torch.float32' instead of 'torch.bfloat16'")


def test_records_belong_to_the_tokenizer(run, model, tmp_path):
    evaluate = ("evaluate", "--model", model, "--out", tmp_path / "out", *EVALUATE)
    assert run(*evaluate)[0] == 0
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["w5"], vocabulary["w6"] = vocabulary["w6"], vocabulary["w5"]
    file.write_text(json.dumps(tokenizer))
    _refused(run(*evaluate), "with tokenizer '")


@pytest.mark.parametrize("command", ["evaluate", "benchmark"])
def test_records_without_their_facts_are_not_adopted(shipped, command, tmp_path):
    assert shipped(command)[0] == 0
    (tmp_path / "out" / "run.json").unlink()
    _refused(shipped(command), ".jsonl but without run.json")


def test_another_seed_of_an_evaluation_gives_other_samples(run, tmp_path):
    def answers(folder, *arguments):
        code, _, err = run("evaluate", "--out", tmp_path / folder, *EVALUATE, "--temperature", 5, *arguments)
        assert code == 0, err
        (file,) = (tmp_path / folder).glob("*.jsonl")
        return [json.loads(line)["tokens"] for line in file.read_text().splitlines()]

    first = answers("a")
    assert answers("b", "--seed", 0) == first
    assert answers("c", "--seed", 1) != first


@pytest.fixture
def train(run, states, fast, tmp_path):
    """Return a function that trains into one folder."""

    def train(*arguments, data=states):
        return run("train", "--data", data, "--out", tmp_path / "head", "--width", 16, *fast, *arguments)

    return train


def test_a_head_belongs_to_its_training(train, tmp_path):
    assert train()[0] == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "head").glob("*.*") if path.is_file()}
    _refused(train("--learning-rate", 0.5), "with arguments.learning_rate '0.001' instead of '0.5'")
    _refused(train("--seed", 1), "with arguments.seed '0' instead of '1'")
    _refused(train("--eval-share", 0.3), "with data.held_out.")
    _refused(train("--width", 32), "with head '")
    _refused(train("--patience", 3), "with patience None instead of 3")
    assert {path.name: path.read_bytes() for path in (tmp_path / "head").glob("*.*") if path.is_file()} == written
    # What changes no weight may differ, and the finished head is found again.
    code, _, err = train("--report-to", "none", "--set", "dataloader_num_workers=0")
    assert code == 0, err
    assert (tmp_path / "head" / "model.safetensors").read_bytes() == written["model.safetensors"]


def test_a_head_belongs_to_its_data(train, collect, tmp_path):
    assert train()[0] == 0
    assert collect("--num-states", 20, "--seed", 5)[0] == 0
    _refused(train(data=tmp_path / "states"), "with data.held_out.")


def test_a_head_without_its_checkpoints_is_not_overwritten(train, tmp_path):
    assert train()[0] == 0
    shutil.rmtree(tmp_path / "head" / "checkpoints")
    _refused(train("--seed", 1), "with model.safetensors but without the checkpoints that it comes from")


def test_checkpoints_without_their_facts_are_not_adopted(train, tmp_path):
    assert train()[0] == 0
    (tmp_path / "head" / "checkpoints" / "run.json").unlink()
    _refused(train(), "but without run.json")


def test_an_adapter_is_the_same_for_a_seed(train, head, run, states, fast, tmp_path):
    adapters = []
    for name in ("a", "b"):
        out = tmp_path / name
        code, _, err = run("train", "--data", states, "--head", head, "--peft", "lora", "--out", out, *fast)
        assert code == 0, err
        adapters.append((out / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


@pytest.mark.parametrize(
    ("command", "argument", "name", "options"),
    [
        ("collect", "out", "out", ("--data", "x.jsonl", "--out")),
        ("train", "out", "out", ("--data", "states", "--out")),
        ("evaluate", "out", "out", ("--out",)),
        ("benchmark", "out", "out", ("--out",)),
        ("verify", "out", "out.json.work", ("--out",)),
        ("calibrate", "work", "out", ("--out", "head", "--work")),
    ],
)
def test_a_folder_has_one_writer(run, tmp_path, monkeypatch, command, argument, name, options):
    # Nothing is loaded before that is clear.
    monkeypatch.setattr("demask_hf.models.loading.AutoModelForMaskedLM", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    with locked(tmp_path / name):
        code, out, err = run(command, *options, tmp_path / name.removesuffix(".work"))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(
        f"demask-hf: error: `{argument}` must be a folder that no other process writes to, got "
    )
    assert " uses." in err
