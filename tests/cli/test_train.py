"""`demask-hf train`: heads from stored states and on the fly, and what is refused."""

import json

import pytest

from demask_hf import DemaskHead


def test_train_writes_head_record_and_figure(files, head):
    assert DemaskHead.from_pretrained(head).config.width == 16
    record = json.loads((head / "training.json").read_text())
    assert record["data"]["estimator"] == "argmax"
    assert record["arguments"]["max_steps"] == 4
    assert record["num_states"] + record["num_held_out_states"] == 20
    assert len(record["reliability"]) == 10
    pytest.importorskip("matplotlib")
    assert (head / "reliability.png").exists()


def test_train_prints_the_head_beside_the_trivial_predictors(run, states, fast, tmp_path):
    code, out, _ = run("train", "--data", states, "--eval-data", states, "--out", tmp_path, "--width", 16, *fast)
    assert code == 0
    for label in ("head", "mean by distance", "constant mean"):
        assert len([line for line in out.splitlines() if line.startswith(label)]) == 1
    assert DemaskHead.from_pretrained(tmp_path).config.base_model_name_or_path is not None


def test_on_the_fly_stores_no_states(run, files, fast, tmp_path):
    data = ("--data", files / "train.jsonl", "--eval-data", files / "eval.jsonl", "--num-eval-states", 8)
    code, _, err = run(
        "train", "--on-the-fly", "--model", files / "model", *data, "--out", tmp_path, "--width", 16, *fast
    )
    assert code == 0, err
    assert DemaskHead.from_pretrained(tmp_path).config.backbone_hidden_size == 32
    assert not list(tmp_path.rglob("shard-*"))
    assert json.loads((tmp_path / "training.json").read_text())["num_states"] == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--data", "none", "--out", "x"],
            "`data` must be a folder that `demask-hf collect` wrote, got 'none'",
        ),
        (["train", "--data", "none", "--out", "x", "--peft", "lora"], "`--peft` must be used with --head"),
        (["train", "--data", "none", "--out", "x", "--on-the-fly"], "`--on-the-fly` must be used with --eval-data"),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"demask-hf: error: {message}")
    assert len(err.splitlines()) == 1


def test_states_of_another_backbone_are_refused(run, states, make_head, make_dream, fast, tmp_path):
    make_head(make_dream(hidden_size=16)).save_pretrained(tmp_path / "head")
    code, _, err = run("train", "--data", states, "--head", tmp_path / "head", "--out", tmp_path / "out", *fast)
    assert code == 2
    assert "`head` must be made for this backbone, got a head with backbone_hidden_size 16" in err


def test_held_out_states_of_another_backbone_are_refused(run, states, fast, tmp_path):
    other = tmp_path / "states"
    other.mkdir()
    for file in states.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    facts = json.loads((other / "collection.json").read_text())
    (other / "collection.json").write_text(json.dumps({**facts, "model": "other"}))
    code, _, err = run("train", "--data", states, "--eval-data", other, "--out", tmp_path / "out", *fast)
    assert code == 2
    assert "`--eval-data` must be of the same backbone as --data, got model 'other' instead of" in err
