"""`demask-hf export`: heads and adapters become the folder of a repository."""


def test_an_adapter_is_trained_exported_and_decodes(run, files, states, head, fast, tmp_path):
    adapter = tmp_path / "adapter"
    options = ("--peft", "lora", "--rank", 2, "--targets", "query", "key", "--modules-to-save", "scorer")
    options += ("--eval-share", 0.4)
    assert run("train", "--data", states, "--head", head, *options, "--out", adapter, *fast)[0] == 0
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


def test_a_missing_head_is_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run("export", "x", "--head", "./none")
    assert (code, out) == (2, "")
    assert err.startswith("demask-hf: error: `head` must be a folder or Hub repository of a head, got './none'")
    assert len(err.splitlines()) == 1
