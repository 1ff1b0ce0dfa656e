"""The commands for the life of a head, one after the other, with a tiny random model."""

import json

import pytest

from demask_hf import DemaskGenerationConfig, DemaskHead
from demask_hf.cli.main import main
from demask_hf.training.store import StoredExamples


FAST = ("--steps", "4", "--eval-every", "2", "--batch-size", "4", "--device", "cpu", "--set", "disable_tqdm=true")


@pytest.fixture(scope="module")
def files(tmp_path_factory, dream, tokenizer):
    """Return a folder with a model and two files of prompts."""
    folder = tmp_path_factory.mktemp("files")
    dream.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    DemaskGenerationConfig(max_new_tokens=6).save_pretrained(folder / "model")
    for name, start in (("train", 3), ("eval", 13)):
        rows = [{"prompt": f"w{number}", "answer": f"w{number + 1} w5"} for number in range(start, start + 10)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def run(capsys, files):
    """Return a function that runs a command and returns its exit code, output and messages."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def states(files):
    """Return the folder of a collection."""
    options = ["--num-states", "20", "--states-per-shard", "8", "--estimator", "argmax", "--device", "cpu"]
    options += ["--strategy", "threshold:confidence_threshold=0.5"]
    collect = ["collect", "--model", files / "model", "--data", files / "train.jsonl", "--out", files / "states"]
    assert main([str(argument) for argument in [*collect, *options]]) == 0
    return files / "states"


@pytest.fixture(scope="module")
def head(files, states):
    """Return the folder of a trained head."""
    options = ["--width", "16", "--eval-share", "0.4", *FAST]
    assert main(["train", "--data", str(states), "--out", str(files / "head"), *options]) == 0
    return files / "head"


def test_collect_records_where_the_states_come_from(files, states):
    facts = StoredExamples(states).facts
    assert len(StoredExamples(states)) == 20
    assert facts["model"] == str(files / "model")
    assert facts["answer_length"] == 6
    assert facts["strategy"] == {"name": "threshold", "confidence_threshold": 0.5}


def test_collect_says_what_it_wrote_and_how_much_it_will(run, files, states):
    same = ("--num-states", 20, "--states-per-shard", 8, "--estimator", "argmax", "--device", "cpu")
    same += ("--strategy", "threshold:confidence_threshold=0.5")
    code, out, err = run(
        "collect", "--model", files / "model", "--data", files / "train.jsonl", "--out", states, *same
    )
    assert code == 0
    assert out.splitlines() == [
        next(line for line in out.splitlines() if line.startswith("0 states in 0 shards: about 0 B")),
        f"20 states of 10 prompts in {states}",
    ]
    assert "20/20" not in err


def test_train_writes_head_record_and_figure(files, head):
    assert DemaskHead.from_pretrained(head).config.width == 16
    record = json.loads((head / "training.json").read_text())
    assert record["data"]["estimator"] == "argmax"
    assert record["arguments"]["max_steps"] == 4
    assert record["num_states"] + record["num_held_out_states"] == 20
    assert len(record["calibration"]) == 10
    pytest.importorskip("matplotlib")
    assert (head / "calibration.png").exists()


def test_train_prints_the_head_beside_the_trivial_predictors(run, states, tmp_path):
    code, out, _ = run("train", "--data", states, "--eval-data", states, "--out", tmp_path, "--width", 16, *FAST)
    assert code == 0
    for label in ("head", "mean by distance", "constant mean"):
        assert len([line for line in out.splitlines() if line.startswith(label)]) == 1
    assert DemaskHead.from_pretrained(tmp_path).config.base_model_name_or_path is not None


def test_on_the_fly_stores_no_states(run, files, tmp_path):
    data = ("--data", files / "train.jsonl", "--eval-data", files / "eval.jsonl", "--num-eval-states", 8)
    code, _, err = run(
        "train", "--on-the-fly", "--model", files / "model", *data, "--out", tmp_path, "--width", 16, *FAST
    )
    assert code == 0, err
    assert DemaskHead.from_pretrained(tmp_path).config.backbone_hidden_size == 32
    assert not list(tmp_path.rglob("shard-*"))
    assert json.loads((tmp_path / "training.json").read_text())["num_states"] == 16


def test_an_adapter_is_trained_exported_and_decodes(run, files, states, head, tmp_path):
    adapter = tmp_path / "adapter"
    options = ("--peft", "lora", "--rank", 2, "--targets", "query", "key", "--modules-to-save", "scorer")
    options += ("--eval-share", 0.4)
    assert run("train", "--data", states, "--head", head, *options, "--out", adapter, *FAST)[0] == 0
    assert (adapter / "adapter_model.safetensors").exists()
    assert not (adapter / "model.safetensors").exists()
    code, out, _ = run("export", tmp_path / "exported", "--head", adapter, "--repo", "org/name")
    assert code == 0
    assert out == f"wrote {tmp_path / 'exported'}\n"
    assert "| estimator | argmax |" in (tmp_path / "exported" / "README.md").read_text()
    for folder in (head, adapter, tmp_path / "exported"):
        code, out, err = run("generate", "w3 w4", "--model", files / "model", "--head", folder, "--device", "cpu")
        assert code == 0, err
        assert out.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--data", "none", "--out", "x"],
            "`data` must be a folder that `demask-hf collect` wrote, got 'none'",
        ),
        (["train", "--data", "none", "--out", "x", "--peft", "lora"], "`--peft` must be used with --head"),
        (["train", "--data", "none", "--out", "x", "--on-the-fly"], "`--on-the-fly` must be used with --eval-data"),
        (
            ["collect", "--data", "./none.jsonl", "--out", "x"],
            "`data` must be a file, a folder or a dataset of the Hub",
        ),
        (["export", "x", "--head", "./none"], "`head` must be a folder or Hub repository of a head, got './none'"),
    ],
)
def test_bad_input_is_one_sentence(run, files, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if arguments[0] == "collect":
        arguments = [*arguments, "--model", files / "model"]
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"demask-hf: error: {message}")
    assert len(err.splitlines()) == 1


def test_states_of_another_backbone_are_refused(run, states, make_head, make_dream, tmp_path):
    make_head(make_dream(hidden_size=16)).save_pretrained(tmp_path / "head")
    code, _, err = run("train", "--data", states, "--head", tmp_path / "head", "--out", tmp_path / "out", *FAST)
    assert code == 2
    assert "`head` must be made for this backbone, got a head with backbone_hidden_size 16" in err


def test_held_out_states_of_another_backbone_are_refused(run, states, tmp_path):
    other = tmp_path / "states"
    other.mkdir()
    for file in states.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    facts = json.loads((other / "collection.json").read_text())
    (other / "collection.json").write_text(json.dumps({**facts, "model": "other"}))
    code, _, err = run("train", "--data", states, "--eval-data", other, "--out", tmp_path / "out", *FAST)
    assert code == 2
    assert "`--eval-data` must be of the same backbone as --data, got model 'other' instead of" in err
