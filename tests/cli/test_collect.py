"""`demask-hf collect`: what it measures and records."""

from demask_hf.training.store import StoredExamples


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
        f"all 3 shards are in {states} already",
        f"complete: 20 states of 10 prompts in {states}",
    ]
    assert "20/20" not in err


def test_missing_data_is_one_sentence(run, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run("collect", "--data", "./none.jsonl", "--out", "x", "--model", files / "model")
    assert (code, out) == (2, "")
    assert err.startswith("demask-hf: error: `data` must be a file, a folder or a dataset of the Hub")
    assert len(err.splitlines()) == 1
