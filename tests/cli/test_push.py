"""`demask-hf push`: what is uploaded, and where to."""

from pathlib import Path


def test_push_uploads_an_exported_head(run, head, monkeypatch):
    calls = []

    def upload(folder, *arguments):
        calls.append(({file.name for file in Path(folder).iterdir()}, *arguments))
        return "address"

    monkeypatch.setattr("demask_hf.head.publishing.push_head", upload)
    code, out, err = run("push", "org/name", "--head", head, "--license", "mit", "--private", "--token", "secret")
    assert (code, out) == (0, "address\n"), err
    ((files, *arguments),) = calls
    assert {"config.json", "model.safetensors", "modeling_demask.py", "README.md", "training.json"} <= files
    assert arguments == ["org/name", True, "secret"]


def test_push_asks_for_the_license(run):
    code, out, err = run("push", "org/name", "--head", "x")
    assert (code, out) == (2, "")
    assert err.startswith("demask-hf: error: `--license` must be given to publish a head, such as apache-2.0")


def test_push_needs_a_head(run):
    code, out, err = run("push", "org/name")
    assert (code, out) == (2, "")
    expected = "the following arguments are required: --head (see demask-hf push --help)"
    assert err == f"demask-hf: error: {expected}\n"
