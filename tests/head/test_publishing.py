"""Publishing and loading heads, with the real Hub client against a server on this machine, and from folders."""

import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModel

import demask_hf
from demask_hf import DemaskHead
from demask_hf.custom_generate import generate
from demask_hf.head.adapters import add_lora
from demask_hf.head.loading import load_head
from demask_hf.head.publishing import export_head, model_card, push_head, read_training_record


TOKEN = "hf_secret"
IDS = [[3, 4, 5]]
RECORD = {
    "data": {"model": "org/backbone", "data": "answers.jsonl", "estimator": "sample", "num_states": 40},
    "metrics": {
        **{f"{name}{suffix}": 0.5 for name in ("mae", "r2", "auc") for suffix in ("", "_mean", "_distance")},
        "num_pairs": 1200,
    },
    "num_held_out_states": 10,
}
# Everything that needs the Hub, in one process; each line of the report is one call or the error it raised.
CLIENT = """
import json, sys, torch, traceback
import demask_hf
from transformers import AutoModel
from demask_hf.head.publishing import push_head
torch.set_num_threads(1)
model, folder, token, ids = sys.argv[1], sys.argv[2], sys.argv[3], torch.tensor(json.loads(sys.argv[4]))
report = {}
def build():
    return demask_hf.DreamModel.from_pretrained(model).eval()
def record(name, call):
    try:
        report[name] = call()
    except Exception as error:
        report[name] = [type(error).__name__, str(error)]
        traceback.print_exc()
def decode(loaded, **kwargs):
    return loaded.generate(ids, max_new_tokens=8, **kwargs).tolist()
def load(repo, **kwargs):
    loaded = build()
    loaded.load_demask_head(repo, **kwargs)
    return decode(loaded, strategy="demask")
for repo in ("org/head", "org/head-private"):
    record("push " + repo, lambda: push_head(folder, repo, token=token))
record("push without token", lambda: push_head(folder, "org/head"))
record("load", lambda: load("org/head"))
record("revision", lambda: load("org/head", revision=report["push org/head"].split("/")[-1]))
record("wrong revision", lambda: load("org/head", revision="v9"))
record("no repository", lambda: load("org/none"))
record("no token", lambda: load("org/head-private"))
record("token", lambda: load("org/head-private", token=token))
record("auto", lambda: type(AutoModel.from_pretrained("org/head", trust_remote_code=True)).__module__)
trusted = {"custom_generate": "org/head", "trust_remote_code": True}
twice = build()
record("custom generate", lambda: decode(twice, **trusted))
head = twice.demask_head
record("custom generate again", lambda: decode(twice, **trusted))
report["loaded once"] = twice.demask_head is head
record("not trusted", lambda: decode(build(), custom_generate="org/head", trust_remote_code=False))
private = {"custom_generate": "org/head-private", "trust_remote_code": True}
record("custom generate with token", lambda: decode(build(), **private, token=token, head="org/head-private"))
for broken in ("truncated", "corrupted", "empty", "unfinished"):
    record(broken, lambda: load("org/" + broken))
print(json.dumps(report))
"""
# A process where demask_hf cannot be imported.
ALONE = """
import json, sys, torch
sys.modules["demask_hf"] = None
from transformers import AutoModel
torch.set_num_threads(1)
answers = []
for source in json.loads(sys.argv[1]):
    head = AutoModel.from_pretrained(source, trust_remote_code=True).eval()
    with torch.no_grad():
        states = torch.linspace(-1, 1, 4 * head.config.backbone_hidden_size).view(1, 4, -1)
        answers.append(head(states, torch.tensor([[1, 2, 5, 9]])).dependencies.tolist())
print(json.dumps(answers))
"""


DATASET = """
import json, sys
from transformers import AutoTokenizer
from demask_hf.training.prompts import read_prompts
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
prompts = read_prompts("org/answers", tokenizer)
assert read_prompts("org/answers", tokenizer, revision="main") == prompts
print(json.dumps([[prompt.prompt, prompt.answer] for prompt in prompts]))
"""


@pytest.fixture(scope="module")
def model(dream_with_head):
    return dream_with_head


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    return export_head(model.demask_head, tmp_path_factory.mktemp("exported") / "head", RECORD, repo_id="org/head")


@pytest.fixture(scope="module")
def metadata(tmp_path_factory) -> str:
    """Return a folder that says demask-hf is installed, for test runs from a checkout that is not."""
    folder = tmp_path_factory.mktemp("metadata")
    facts = folder / "demask_hf-0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: demask-hf\nVersion: 0\n", encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def environment(exported, metadata, tmp_path_factory):
    """Start a Hub that holds broken heads, and return the environment of its clients."""
    root = tmp_path_factory.mktemp("hub")
    whole = (exported / "model.safetensors").read_bytes()
    broken = {"truncated": whole[:-100], "corrupted": b"\xff" * 200, "empty": None, "unfinished": _without_a_tensor()}
    for name, weights in broken.items():
        folder = root / "org" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes((exported / "config.json").read_bytes())
        if weights is not None:
            (folder / "model.safetensors").write_bytes(weights)
    (root / "org" / "answers").mkdir()
    lines = ({"prompt": "w3 w4", "answer": "w5"}, {"prompt": "w6", "answer": "w7 w8"})
    (root / "org" / "answers" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("local_hub.py"), str(root), TOKEN], stdout=subprocess.PIPE, text=True
    )
    home = tmp_path_factory.mktemp("home")
    yield {
        **os.environ,
        "HF_ENDPOINT": server.stdout.readline().strip(),
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(demask_hf.__file__).parents[1]), metadata]),
    }
    server.kill()
    server.wait()


def _without_a_tensor() -> bytes:
    from safetensors.torch import save

    return save({"query.bias": torch.zeros(16)}, {"format": "pt"})


def _run(script, environment, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=300, env=environment
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def report(model, exported, environment, tmp_path_factory):
    """Return what a process with the Hub client saw."""
    folder = tmp_path_factory.mktemp("backbone")
    model.save_pretrained(folder)
    return _run(CLIENT, environment, str(folder), str(exported), TOKEN, json.dumps(IDS))


@pytest.fixture(scope="module")
def expected(model):
    return model.generate(torch.tensor(IDS), max_new_tokens=8, strategy="demask").tolist()


def test_an_exported_folder_is_a_whole_repository(exported):
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "config.json",
        "configuration_demask.py",
        "custom_generate/generate.py",
        "custom_generate/requirements.txt",
        "layers_demask.py",
        "model.safetensors",
        "modeling_demask.py",
        "training.json",
    }
    config = json.loads((exported / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_demask.DemaskConfig",
        "AutoModel": "modeling_demask.DemaskHead",
    }
    assert (exported / "custom_generate" / "requirements.txt").read_text() == "demask-hf\n"
    assert 'HEAD_REPOSITORY = "org/head"\n' in (exported / "custom_generate" / "generate.py").read_text()
    for name in ("configuration_demask.py", "layers_demask.py", "modeling_demask.py"):
        assert "import demask_hf" not in (exported / name).read_text().split("class ")[0]


def test_exporting_leaves_the_head_as_it_was(model, exported, tmp_path):
    model.demask_head.save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_the_model_card_has_valid_front_matter_and_the_numbers(make_head, make_dream, tmp_path):
    head = make_head(make_dream())
    head.config.base_model_name_or_path, head.config.base_model_revision = "org/backbone", "abc123"
    export_head(head, tmp_path, RECORD, repo_id="org/head")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.base_model == "org/backbone"
    assert card.data.license is None
    assert "The license of this head is not chosen yet" in card.text
    assert "custom_generate" in card.data.tags
    assert "revision `abc123`" in card.text
    assert "| estimator | sample |" in card.text
    assert "| this head | 0.5000 | 0.5000 | 0.5000 |" in card.text
    assert 'head="org/head")' in card.text
    head.config.base_model_name_or_path = "/some/folder"
    export_head(head, tmp_path)
    assert ModelCard.load(tmp_path / "README.md").data.base_model is None


def test_the_model_card_keeps_bars_within_their_cell(make_head, make_dream):
    record = {**RECORD, "data": {"data": "a|b.jsonl"}}
    assert r"| data | a\|b.jsonl |" in model_card(make_head(make_dream()), record, "org/head", "mit")


def test_the_model_card_names_the_license_that_was_chosen(make_head, make_dream, tmp_path):
    export_head(make_head(make_dream()), tmp_path, license="mit")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit"
    assert "not chosen yet" not in card.text


def test_the_code_of_the_model_card_runs(tmp_path, capsys):
    head = load_head(demask_hf.TINY_DEMASK)
    head.config.base_model_name_or_path = "demask_hf.TINY_DREAM"
    export_head(head, tmp_path / "head")
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "head" / "README.md").read_text(), flags=re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out.strip()


def test_a_hub_that_cannot_be_reached_is_one_sentence(exported, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        OSError, match="`repo_id` must be a repository that can be reached, got 'org/head': "
    ) as raised:
        push_head(exported, "org/head", token=TOKEN)
    assert len(str(raised.value).splitlines()) == 1


def test_a_training_record_is_read_under_its_present_names(tmp_path):
    assert read_training_record(tmp_path) == {}
    (tmp_path / "training.json").write_text(json.dumps({"calibration": [1], "num_states": 2}), encoding="utf-8")
    assert read_training_record(tmp_path) == {"reliability": [1], "num_states": 2}


def test_the_model_card_shows_the_certificate(make_head, make_dream, tmp_path):
    head = make_head(make_dream())
    export_head(head, tmp_path)
    assert "Certified bound" not in (tmp_path / "README.md").read_text(encoding="utf-8")
    head.config.certificate = {"dependency_bound": 0.25, "risk": "tv", "epsilon": 0.125}
    export_head(head, tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "## Certified bound" in card
    assert "| dependency_bound | 0.25 |" in card
    assert "| epsilon | 0.125 |" in card
    assert json.loads((tmp_path / "config.json").read_text())["certificate"] == head.config.certificate


def test_an_adapter_must_be_merged_before(make_head, make_dream, tmp_path):
    with pytest.raises(TypeError, match=r"`head` must be a DemaskHead, got PeftModel: merge an adapter first\."):
        export_head(add_lora(make_head(make_dream())), tmp_path)


def test_a_repository_has_an_organisation_and_a_name(exported):
    with pytest.raises(ValueError, match=r"`repo_id` must be of the form organisation/name, got 'head'\."):
        push_head(exported, "head")


def test_heads_are_pushed_with_a_token_only(report):
    assert "/org/head/commit/" in report["push org/head"]
    kind, message = report["push without token"]
    assert kind == "OSError"
    assert message.startswith("`repo_id` must be a repository you may write to, got 'org/head'")


@pytest.mark.parametrize(
    "way", ["load", "revision", "token", "custom generate", "custom generate again", "custom generate with token"]
)
def test_every_way_of_loading_decodes_the_same(report, expected, way):
    assert report[way] == expected
    assert report["loaded once"]


def test_the_native_class_wins_where_demask_hf_is_imported(report):
    assert report["auto"] == "demask_hf.head.modeling_demask"


@pytest.mark.parametrize(
    ("case", "kind", "message"),
    [
        ("wrong revision", "OSError", "got 'org/head', which has no revision 'v9'."),
        ("no repository", "OSError", "got 'org/none', which does not exist or is private: check the name, or pass a"),
        ("no token", "OSError", "got 'org/head-private', which does not exist or is private"),
        ("truncated", "ValueError", "got 'org/truncated', whose file is corrupted or truncated ("),
        ("corrupted", "ValueError", "got 'org/corrupted', whose file is corrupted or truncated ("),
        (
            "empty",
            "OSError",
            "got 'org/empty', which has no model.safetensors.",
        ),
        ("unfinished", "ValueError", "got 'org/unfinished' without "),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_sentence(report, case, kind, message):
    assert report[case][0] == kind
    assert message in report[case][1]
    assert report[case][1].startswith("`head` must ")
    assert "\n" not in report[case][1]


def test_remote_code_runs_only_when_trusted(report):
    assert report["not trusted"][0] == "ValueError"
    assert "trust_remote_code" in report["not trusted"][1]


def test_a_head_loads_alone_where_demask_hf_cannot_be_imported(model, exported, report, environment):
    answers = _run(ALONE, environment, json.dumps(["org/head", str(exported)]))
    states = torch.linspace(-1, 1, 4 * 32).view(1, 4, -1)
    with torch.no_grad():
        expected = model.demask_head(states, torch.tensor([[1, 2, 5, 9]])).dependencies
    for answer in answers:
        torch.testing.assert_close(torch.tensor(answer), expected)


def test_a_folder_loads_without_the_hub(make_dream, exported, expected, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = make_dream()
    model.load_demask_head(str(exported))
    assert model.generate(torch.tensor(IDS), max_new_tokens=8, strategy="demask").tolist() == expected
    assert isinstance(AutoModel.from_pretrained(exported, trust_remote_code=True), DemaskHead)


def test_custom_generate_of_a_folder(make_dream, model, expected, metadata, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(metadata)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = str(export_head(model.demask_head, tmp_path / "head"))
    trusted = {"custom_generate": folder, "trust_remote_code": True, "max_new_tokens": 8}
    fresh = make_dream()
    with pytest.raises(
        ValueError, match=r"`head` must name the folder or repository of the dependency head, got None"
    ):
        fresh.generate(torch.tensor(IDS), **trusted)
    assert fresh.generate(torch.tensor(IDS), head=folder, **trusted).tolist() == expected
    assert fresh.generate(torch.tensor(IDS), **trusted).tolist() == expected


def test_heads_of_several_calls_do_not_meet(make_dream, make_head, tmp_path):
    model, folders = make_dream(), [str(tmp_path / name) for name in ("own", "second", "third")]
    for seed, folder in enumerate(folders):
        make_head(model, seed).save_pretrained(folder)
    own = model.load_demask_head(folders[0])
    # Both calls are in their first forward at the same time, after the heads were loaded.
    used, meeting = {}, threading.Barrier(2)

    def meet(*unused):
        if threading.get_ident() not in used:
            used[threading.get_ident()] = model.demask_head
            meeting.wait(60)

    handle = model.register_forward_pre_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(lambda folder: generate(model, torch.tensor(IDS), folder, max_new_tokens=8), folders[1:])
        )
    handle.remove()
    assert len({id(head) for head in (own, *used.values())}) == 3
    assert model.demask_head is own
    for folder, answer in zip(folders[1:], answers, strict=True):
        fresh = make_dream()
        fresh.load_demask_head(folder)
        assert torch.equal(fresh.generate(torch.tensor(IDS), strategy="demask", max_new_tokens=8), answer)


@pytest.mark.parametrize(
    ("file", "kind", "message"),
    [
        ("config.json", OSError, r"got '.*', which has no config\.json\."),
        ("model.safetensors", OSError, r"got '.*', which has no model\.safetensors\."),
    ],
)
def test_a_folder_without_a_file_is_refused(model, tmp_path, file, kind, message):
    model.demask_head.save_pretrained(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(kind, match=message):
        load_head(str(tmp_path))


def test_pickled_weights_are_never_read(model, tmp_path):
    model.demask_head.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.demask_head.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"which has no model\.safetensors\."):
        load_head(str(tmp_path))
    for load in (DemaskHead.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(OSError, match=r"model\.safetensors"):
            load(tmp_path)


def test_tensors_of_other_shapes_are_refused(model, tmp_path):
    model.demask_head.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "width": 32}))
    with pytest.raises(ValueError, match=r"`head` must have tensors of the shapes in its config\.json, got "):
        load_head(str(tmp_path))


def test_a_head_for_another_backbone_is_refused(make_dream, exported):
    with pytest.raises(ValueError, match=r"`head` must be made for this backbone, got a head with .* 32 for .* 16\."):
        make_dream(hidden_size=16).load_demask_head(str(exported))


def test_a_model_is_no_head(make_dream, tmp_path):
    make_dream().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`head` must be a dependency head, got .* config.json is that of a 'Dream'"):
        make_dream().load_demask_head(str(tmp_path))


def test_prompts_are_read_from_a_dataset_of_the_hub(tokenizer, environment, tmp_path):
    pytest.importorskip("datasets", reason="needs datasets: pip install demask-hf[train]")
    tokenizer.save_pretrained(tmp_path)
    assert _run(DATASET, environment, str(tmp_path)) == [[[3, 4], [5]], [[6], [7, 8]]]
