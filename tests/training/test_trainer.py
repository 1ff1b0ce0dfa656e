import errno
import json
import subprocess
import sys
import time

import pytest
import torch
from safetensors import SafetensorError

from demask_hf.backbones.backbone import backbone_facts
from demask_hf.files import WriteError
from demask_hf.head.modeling_demask import DemaskHead
from demask_hf.training.collection import collect
from demask_hf.training.divergence import last_checkpoint
from demask_hf.training.prompts import TokenizedPrompt
from demask_hf.training.states import CollectionSettings, MeasuredStates
from demask_hf.training.store import StoredExamples
from demask_hf.training.trainer import (
    best_kept,
    new_head,
    split_by_prompt,
    train_head,
    write_training_record,
)


PROMPTS = [TokenizedPrompt((3, 4, 5)[: 1 + row % 3], (6, 7, 8, 9)[: 1 + row % 4]) for row in range(10)]
SETTINGS = CollectionSettings(num_states=40, answer_length=6, states_per_shard=40, estimator="argmax")
ARGUMENTS = {
    "max_steps": 12,
    "per_device_train_batch_size": 8,
    "learning_rate": 5e-3,
    "seed": 3,
    "logging_strategy": "no",
    "disable_tqdm": True,
    **best_kept(4),
}
# Trains like the test itself, and hangs in the middle of the sixth step.
CHILD = """
import sys, time, json
import torch
from demask_hf.training.store import StoredExamples
from demask_hf.training.trainer import new_head, split_by_prompt, train_head
torch.set_num_threads(1)
collection = StoredExamples(sys.argv[1])
training, held_out = split_by_prompt(collection, 0.2, 0)
class Hanging(torch.utils.data.Dataset):
    num_read = 0
    def __len__(self):
        return len(training)
    def __getitem__(self, index):
        self.num_read += 1
        if self.num_read > 44:
            open(sys.argv[2] + "/hanging", "w").close()
            time.sleep(600)
        return training[index]
head = new_head(collection.facts["backbone"], 0, width=16)
train_head(head, Hanging(), held_out, sys.argv[2], **json.loads(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def collection(dream, tmp_path_factory) -> StoredExamples:
    return collect(dream, PROMPTS, tmp_path_factory.mktemp("states"), SETTINGS, is_verbose=False)


@pytest.fixture(scope="module")
def parts(collection):
    return split_by_prompt(collection, 0.2, 0)


def _head(collection):
    return new_head(collection.facts["backbone"], 0, width=16)


@pytest.fixture(scope="module")
def trained(collection, parts, tmp_path_factory):
    """Return the folder, the head and the fit of a run that was never interrupted."""
    folder, head = tmp_path_factory.mktemp("checkpoints"), _head(collection)
    return folder, head, train_head(head, *parts, folder, **ARGUMENTS)


def _assert_same_weights(first, second):
    weights = second.state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_training_lowers_the_held_out_loss(trained, collection, parts):
    before = train_head(_head(collection), *parts, trained[0].parent / "none", **{**ARGUMENTS, "learning_rate": 0.0})
    assert trained[2]["mae"] < before["mae"]


def test_the_best_checkpoint_is_kept(trained):
    folder, head, _ = trained
    state = json.loads((folder / "checkpoint-12" / "trainer_state.json").read_text())
    losses = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    assert sorted(losses) == [4, 8, 12]
    best = min(losses, key=losses.get)
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best}")
    _assert_same_weights(head, DemaskHead.from_pretrained(folder / f"checkpoint-{best}"))


def test_training_repeats_exactly_for_a_seed(trained, collection, parts, tmp_path):
    again = _head(collection)
    train_head(again, *parts, tmp_path, **ARGUMENTS)
    _assert_same_weights(again, trained[1])
    other = _head(collection)
    train_head(other, *parts, tmp_path / "other", **{**ARGUMENTS, "seed": 4})
    assert not torch.equal(other.query.weight, trained[1].query.weight)


def test_a_killed_training_goes_on_to_the_same_weights(trained, collection, parts, tmp_path):
    states = collection._files[0].parent
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(states), str(tmp_path), json.dumps(ARGUMENTS)])
    deadline = time.monotonic() + 300
    while not (tmp_path / "hanging").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert last_checkpoint(tmp_path).endswith("checkpoint-4")
    # What a kill in the middle of saving would leave must not be resumed from.
    (tmp_path / "checkpoint-8").mkdir()
    head = _head(collection)
    fit = train_head(head, *parts, tmp_path, **ARGUMENTS)
    _assert_same_weights(head, trained[1])
    assert fit == trained[2]


@pytest.mark.parametrize("damaged", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"])
def test_a_cut_checkpoint_is_not_resumed_from(collection, parts, trained, tmp_path, damaged):
    arguments = {**ARGUMENTS, "save_total_limit": 3}
    train_head(_head(collection), *parts, tmp_path, **arguments)
    file = tmp_path / "checkpoint-12" / damaged
    file.write_bytes(file.read_bytes()[:-20])
    assert last_checkpoint(tmp_path).endswith("checkpoint-8")
    again = _head(collection)
    train_head(again, *parts, tmp_path, **arguments)
    _assert_same_weights(again, trained[1])


def _full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def _torn(*args, **kwargs):
    # What torch says of a file that cannot grow.
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


def _cut(*args, **kwargs):
    raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")


@pytest.mark.parametrize(
    ("place", "failure"),
    [
        ("transformers.trainer.Trainer._save_optimizer_and_scheduler", _torn),
        ("transformers.trainer.Trainer._save_rng_state", _full),
        ("transformers.trainer_callback.TrainerState.save_to_json", _full),
        ("transformers.trainer.Trainer.save_model", _cut),
        ("demask_hf.files._write", _full),
    ],
)
def test_a_disk_that_is_full_is_one_sentence_and_the_training_goes_on(
    collection, parts, trained, tmp_path, monkeypatch, place, failure
):
    with monkeypatch.context() as patch:
        patch.setattr(place, failure)
        reason = {_full: "the disk is full", _torn: "Input/output error", _cut: "the file is larger than this"}[
            failure
        ]
        with pytest.raises(
            WriteError, match=f"^{reason}.* was not written to .* the same command, run again, resumes"
        ):
            train_head(_head(collection), *parts, tmp_path, **ARGUMENTS)
    head = _head(collection)
    train_head(head, *parts, tmp_path, **ARGUMENTS)
    _assert_same_weights(head, trained[1])


def test_an_error_of_the_training_itself_is_not_taken_for_one_of_the_disk(collection, parts, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(DemaskHead, "forward", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train_head(_head(collection), *parts, tmp_path, **ARGUMENTS)


def test_checkpoints_of_another_head_or_rate_are_not_resumed_from(trained, collection, parts):
    folder = trained[0]
    with pytest.raises(ValueError, match=r"with arguments\.learning_rate '0\.005' instead of '0\.1'"):
        train_head(_head(collection), *parts, folder, **{**ARGUMENTS, "learning_rate": 0.1})
    with pytest.raises(ValueError, match="`out` must be a new folder or one of the same training, got .* with head '"):
        train_head(new_head(collection.facts["backbone"], 1, width=16), *parts, folder, **ARGUMENTS)
    with pytest.raises(ValueError, match=r"with data\.num_states "):
        train_head(_head(collection), collection, parts[1], folder, **ARGUMENTS)


def test_early_stopping(collection, parts, tmp_path):
    arguments = {**ARGUMENTS, "learning_rate": 0.0, "max_steps": 40}
    train_head(_head(collection), *parts, tmp_path, patience=2, **arguments)
    assert json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())["global_step"] == 12
    assert not (tmp_path / "checkpoint-40").exists()


def test_gradient_accumulation_and_mixed_precision_run(collection, parts, tmp_path):
    arguments = {**ARGUMENTS, "max_steps": 4, "gradient_accumulation_steps": 2, "bf16": True}
    fit = train_head(_head(collection), *parts, tmp_path, **arguments)
    assert 0 <= fit["mae"] < 1


def test_targets_measured_while_training_equal_stored_ones(dream, collection, parts, tmp_path):
    measured = MeasuredStates(dream, PROMPTS, SETTINGS)
    arguments = {**ARGUMENTS, "max_steps": 4}
    heads = [new_head(backbone_facts(dream), 0, width=16) for _ in range(2)]
    for name, head in zip("ab", heads, strict=True):
        train_head(head, measured, parts[1], tmp_path / name, **arguments)
    _assert_same_weights(*heads)
    assert not torch.equal(heads[0].query.weight, _head(collection).query.weight)
    assert not list(tmp_path.rglob("shard-*"))


def test_states_of_a_prompt_stay_together(collection):
    training, held_out = split_by_prompt(collection, 0.3, 0)
    assert len(training) + len(held_out) == 40
    prompts = [{example.record for example in part} for part in (training, held_out)]
    assert not prompts[0] & prompts[1]
    assert len(prompts[1]) == 3
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=rf"`eval_share` must be a number in \(0, 1\), got {share}\."):
            split_by_prompt(collection, share, 0)


def test_one_prompt_cannot_be_split(dream, tmp_path):
    settings = CollectionSettings(num_states=2, answer_length=6)
    single = collect(dream, PROMPTS[:1], tmp_path, settings, is_verbose=False)
    with pytest.raises(ValueError, match=r"`data` must hold states of at least 2 prompts to hold some out, got 1\."):
        split_by_prompt(single, 0.5, 0)


def test_the_record_has_metrics_and_deciles(trained, parts, tmp_path):
    record = write_training_record(tmp_path, trained[1], parts[1], trained[2], {"data": {"model": "tiny"}})
    assert json.loads((tmp_path / "training.json").read_text()) == record
    assert record["metrics"] == trained[2]
    assert record["num_held_out_states"] == len(parts[1])
    assert len(record["reliability"]) == 10


def test_the_reliability_figure_is_drawn(trained, parts, tmp_path):
    pytest.importorskip("matplotlib")
    from demask_hf.training.figures import reliability_figure

    record = write_training_record(tmp_path, trained[1], parts[1], trained[2], {})
    reliability_figure(record["reliability"], tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
