import json
import shutil
import subprocess
import sys
import time
from collections import namedtuple

import pytest
import torch

from demask_hf.training import collection
from demask_hf.training.collection import check_room, collect
from demask_hf.training.prompts import TokenizedPrompt
from demask_hf.training.states import CollectionSettings
from demask_hf.training.store import StoredExamples, shard_path


SETTINGS = CollectionSettings(num_states=22, answer_length=6, batch_size=4, states_per_shard=6, estimator="argmax")
PROMPTS = [TokenizedPrompt((3, 4, 5)[: 1 + row % 3], (6, 7, 8, 9)[: 1 + row % 4]) for row in range(7)]
# Collects like the test itself, and hangs in the middle of writing the third shard.
CHILD = """
import sys, time, os, json
import torch
import demask_hf
from demask_hf.training import collection
from demask_hf.training.prompts import TokenizedPrompt
from demask_hf.training.states import CollectionSettings
torch.set_num_threads(1)
model, out, hang = sys.argv[1], sys.argv[2], sys.argv[3] == "hang"
replace = os.replace
def hanging(old, new):
    if hang and "shard-00002" in str(new):
        time.sleep(600)
    replace(old, new)
os.replace = hanging
prompts = [TokenizedPrompt(tuple(a), tuple(b)) for a, b in json.loads(sys.argv[4])]
model = demask_hf.DreamModel.from_pretrained(model).eval()
collection.collect(model, prompts, out, CollectionSettings(**json.loads(sys.argv[5])), is_verbose=False)
from accelerate import PartialState
# In one piece: the launcher runs children without a buffer, where `print` writes text and end of line apart.
sys.stdout.write(f"process {PartialState().process_index + 1} of {PartialState().num_processes}\\n")
"""


@pytest.fixture(scope="module")
def whole(dream, tmp_path_factory):
    """Return the folder of a collection that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    collect(dream, PROMPTS, folder, SETTINGS, {"model": "tiny"}, is_verbose=False)
    return folder


@pytest.fixture(scope="module")
def child(dream, tmp_path_factory):
    """Return a function that gives the command line of a process that collects to a folder."""
    model, script = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("script") / "child.py"
    dream.save_pretrained(model)
    script.write_text(CHILD, encoding="utf-8")
    prompts = json.dumps([[prompt.prompt, prompt.answer] for prompt in PROMPTS])

    def command(out, how):
        return [str(script), str(model), str(out), how, prompts, json.dumps(vars(SETTINGS))]

    return command


def _shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*.safetensors")}


def test_a_collection_holds_every_state_with_its_provenance(whole):
    stored = StoredExamples(whole)
    assert len(stored) == 22
    assert stored.facts["model"] == "tiny"
    assert stored.facts["estimator"] == "argmax"
    assert stored.facts["seed"] == 0
    assert stored.facts["backbone"]["backbone_hidden_size"] == 32
    assert stored[0].hidden_states.dtype == torch.bfloat16
    card = (whole / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\ntags:\n- demask\n")
    assert "| estimator | argmax |" in card


def test_a_killed_process_goes_on_without_repeating_or_losing_a_state(dream, whole, child, tmp_path):
    process = subprocess.Popen([sys.executable, *child(tmp_path, "hang")])
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(f"{shard_path(tmp_path, 2).name}*.part")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*.safetensors")}
    assert sorted(before) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    collect(dream, PROMPTS, tmp_path, SETTINGS, is_verbose=False)
    assert _shards(tmp_path) == _shards(whole)
    assert all((tmp_path / name).stat().st_mtime_ns == written for name, written in before.items())
    assert not list(tmp_path.glob("*.part"))


def test_two_processes_collect_the_same_examples_as_one(whole, child, two_processes, tmp_path):
    result = subprocess.run([*two_processes, *child(tmp_path, "run")], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert {"process 1 of 2", "process 2 of 2"} <= set(result.stdout.splitlines())
    assert _shards(tmp_path) == _shards(whole)
    assert len(StoredExamples(tmp_path)) == 22


def test_another_seed_does_not_continue_a_collection(dream, whole):
    other = CollectionSettings(**{**vars(SETTINGS), "seed": 1})
    with pytest.raises(ValueError, match=r"`out` must be a new folder .* with seed 0 instead of 1\."):
        collect(dream, PROMPTS, whole, other, {"model": "tiny"}, is_verbose=False)


def test_a_broken_shard_is_refused_before_another_is_measured(dream, whole, tmp_path, monkeypatch):
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard_path(tmp_path, 0).unlink()
    shard_path(tmp_path, 1).write_bytes(shard_path(whole, 2).read_bytes())
    monkeypatch.setattr(collection, "write_shard", None)
    message = r"shard-00001\.safetensors', which was written as shard-00002\.safetensors: delete it and run the same"
    with pytest.raises(ValueError, match=message):
        collect(dream, PROMPTS, tmp_path, SETTINGS, {"model": "tiny"}, is_verbose=False)


def test_size_is_estimated_and_room_is_checked(tmp_path, monkeypatch):
    settings = CollectionSettings(num_states=1000, answer_length=512, num_sources=8)
    message = check_room(tmp_path, 3584, settings, 4)
    assert message.startswith("1000 states in 4 shards: about 1.8 GB, at most 3.7 GB; ")
    usage = namedtuple("usage", "total used free")(10**12, 0, 10**9)
    monkeypatch.setattr(collection.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"`out` must have space for about 1\.8 GB \(1000 states\), got 1\.0 GB free\."):
        check_room(tmp_path, 3584, settings, 4)
    assert check_room(tmp_path, 3584, settings, 0) == f"all {settings.num_shards} shards are in {tmp_path} already"


def test_the_estimate_is_near_the_real_size(dream, tmp_path):
    settings = CollectionSettings(num_states=64, answer_length=16, states_per_shard=64)
    answers = [TokenizedPrompt(prompt.prompt, (7,) * 15) for prompt in PROMPTS]
    collect(dream, answers, tmp_path, settings, is_verbose=False)
    real = shard_path(tmp_path, 0).stat().st_size
    positions = settings.answer_length / 2
    estimate = 64 * (positions * (2 * 32 + 16 + 4 * 8) + 4 * 8 + 20)
    assert 0.5 < real / estimate < 2
    shutil.rmtree(tmp_path)
