import errno
import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from demask_hf.files import keep_facts
from demask_hf.training import store as data
from demask_hf.training.examples import DependencyExample
from demask_hf.training.store import COLLECTION_FILE, StoredExamples, shard_path, write_shard


def _example(size, num_sources, record, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return DependencyExample(
        hidden_states=torch.randn(size, 4, generator=generator).bfloat16(),
        positions=torch.arange(size) * 2,
        sources=torch.arange(num_sources),
        targets=torch.rand(num_sources, size, generator=generator),
        confidence=torch.rand(size, generator=generator),
        entropy=torch.rand(size, generator=generator),
        tokens=torch.arange(size) + 5,
        uncovered_mass=0.25,
        record=record,
    )


EXAMPLES = [
    _example(size, num_sources, size, seed) for seed, (size, num_sources) in enumerate([(3, 2), (1, 1), (5, 3)])
]


@pytest.fixture
def folder(tmp_path):
    keep_facts(tmp_path / COLLECTION_FILE, {"num_shards": 2, "seed": 1}, "collection")
    write_shard(shard_path(tmp_path, 0), EXAMPLES[:2])
    write_shard(shard_path(tmp_path, 1), EXAMPLES[2:])
    return tmp_path


def _assert_equal(found, expected):
    for name, value in vars(expected).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(found, name), value), name
        else:
            assert getattr(found, name) == value, name


def test_what_is_written_is_read_again(folder):
    stored = StoredExamples(folder)
    assert len(stored) == 3
    assert stored.records.tolist() == [3, 1, 5]
    assert stored.facts == {"num_shards": 2, "seed": 1}
    for index, expected in enumerate(EXAMPLES):
        _assert_equal(stored[index], expected)
    _assert_equal(stored[-1], EXAMPLES[-1])
    with pytest.raises(IndexError, match=r"`index` must be below 3, got 3\."):
        stored[3]
    assert len(list(stored)) == 3


def test_a_collection_travels_to_worker_processes(folder):
    stored = StoredExamples(folder)
    stored[0]
    _assert_equal(pickle.loads(pickle.dumps(stored))[2], EXAMPLES[2])


def test_single_precision_states_are_kept_where_asked_for(tmp_path):
    keep_facts(tmp_path / COLLECTION_FILE, {"num_shards": 1}, "collection")
    exact = _example(3, 1, 0)
    exact.hidden_states = exact.hidden_states.float() + 1e-4
    write_shard(shard_path(tmp_path, 0), [exact], torch.float32)
    assert torch.equal(StoredExamples(tmp_path)[0].hidden_states, exact.hidden_states)


def test_no_collection_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`data` must be a folder that `demask-hf collect` wrote, got "):
        StoredExamples(tmp_path)


def test_an_unfinished_collection_is_refused(folder):
    shard_path(folder, 1).unlink()
    with pytest.raises(ValueError, match=r"`data` must be a finished collection, got 1 of 2 shards in .*to resume\."):
        StoredExamples(folder)


@pytest.mark.parametrize("length", [4, 300, -10])
def test_a_truncated_shard_is_named(folder, length):
    file = shard_path(folder, 1)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(
        ValueError, match=r"`data` must hold complete shards, got '.*shard-00001\.safetensors'.*delete it"
    ):
        StoredExamples(folder)


def test_another_collection_in_the_folder_is_refused(folder):
    keep_facts(folder / COLLECTION_FILE, {"num_shards": 2, "seed": 1}, "collection")
    message = r"`out` must be a new folder or one of the same collection, got .* with seed 1 instead of 2\."
    with pytest.raises(ValueError, match=message):
        keep_facts(folder / COLLECTION_FILE, {"num_shards": 2, "seed": 2}, "collection")


def test_a_full_disk_leaves_the_whole_shards(folder, monkeypatch):
    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(data, "save_file", full)
    with pytest.raises(OSError, match=r"the disk is full: shard-00002\.safetensors was not written"):
        write_shard(shard_path(folder, 2), EXAMPLES)
    assert sorted(path.name for path in folder.iterdir()) == [
        "collection.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]


def _rewritten(file, change):
    """Change the tensors of a shard and keep its metadata, as damage or an edit would."""
    with safe_open(file, framework="pt") as shard:
        names = list(shard.keys())
        tensors, metadata = {name: shard.get_tensor(name) for name in names}, shard.metadata()
    change(tensors, metadata)
    save_file(tensors, file, metadata=metadata)


def _set(name, place, value):
    def change(tensors, metadata):
        tensors[name].view(-1)[place] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, metadata: tensors.pop("targets"), "lacks targets"),
        (_set("records", 0, 9), "has an index that is not as it was written"),
        (_set("num_sources", 0, -1), "has an index that is not as it was written"),
        (_set("uncovered_mass", 0, float("nan")), "has an index that is not as it was written"),
        (lambda tensors, metadata: metadata.clear(), "was written as None"),
    ],
)
def test_a_damaged_shard_is_refused_when_it_is_opened(folder, change, message):
    _rewritten(shard_path(folder, 1), change)
    with pytest.raises(
        ValueError,
        match=rf"`data` must hold complete shards, got '.*shard-00001\.safetensors', which {message}: delete",
    ):
        StoredExamples(folder)


@pytest.mark.parametrize(
    "name", ["hidden_states", "positions", "confidence", "entropy", "tokens", "sources", "targets"]
)
def test_a_damaged_state_is_refused_when_it_is_read(folder, name):
    # The last number belongs to the second state of the shard.
    _rewritten(shard_path(folder, 0), _set(name, -1, 1))
    stored = StoredExamples(folder)
    _assert_equal(stored[0], EXAMPLES[0])
    with pytest.raises(
        ValueError,
        match=r"got '.*shard-00000\.safetensors', which has numbers that are not as they were .* in state 1",
    ):
        stored[1]


def test_a_damaged_state_is_one_sentence_from_a_worker_process(folder):
    _rewritten(shard_path(folder, 0), _set("entropy", -1, 1))
    loader = torch.utils.data.DataLoader(StoredExamples(folder), batch_size=None, num_workers=1)
    with pytest.raises(
        ValueError, match=r"^`data` must hold complete shards, got .* in state 1: delete it and run .*\.$"
    ):
        list(loader)


def test_a_shortened_tensor_is_refused(folder):
    _rewritten(shard_path(folder, 0), lambda tensors, _: tensors.update(hidden_states=tensors["hidden_states"][:2]))
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors', which has .* in state 0: delete it"):
        StoredExamples(folder)[0]


def test_swapped_shards_are_refused(folder):
    first, second = shard_path(folder, 0), shard_path(folder, 1)
    content = first.read_bytes(), second.read_bytes()
    first.write_bytes(content[1])
    second.write_bytes(content[0])
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors', which was written as shard-00001\.safetensors"):
        StoredExamples(folder)


def test_shards_of_another_collection_are_refused(folder):
    file = folder / COLLECTION_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "seed": 2}))
    with pytest.raises(ValueError, match=r"belongs to a collection with other facts than collection\.json: delete it"):
        StoredExamples(folder)


def test_shards_of_another_machine_can_be_copied_into_the_folder(folder, tmp_path_factory):
    # Only the first process of a launch writes the facts.
    other = shard_path(tmp_path_factory.mktemp("other"), 1)
    write_shard(other, EXAMPLES[:1], facts={"num_shards": 2, "seed": 1, "model": "at another place"})
    shard_path(folder, 1).write_bytes(other.read_bytes())
    _assert_equal(StoredExamples(folder)[2], EXAMPLES[0])


@pytest.mark.parametrize("num_shards", [None, 0, -1, "2", True])
def test_a_collection_must_say_how_many_shards_it_has(folder, num_shards):
    (folder / COLLECTION_FILE).write_text(json.dumps({"num_shards": num_shards}))
    with pytest.raises(ValueError, match=r"`num_shards` in `collection\.json` must be an integer of at least 1, got "):
        StoredExamples(folder)


def test_the_fingerprint_is_of_all_states(folder):
    before = StoredExamples(folder).fingerprint
    assert StoredExamples(folder).fingerprint == before
    other = replace(EXAMPLES[2], confidence=EXAMPLES[2].confidence / 2)
    write_shard(shard_path(folder, 1), [other])
    assert StoredExamples(folder).fingerprint != before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"hidden_states": torch.full((3, 4), float("nan"))}, "hidden_states that are not finite"),
        # More than half precision holds.
        ({"hidden_states": torch.full((3, 4), 3.4e38)}, "hidden_states that are not finite"),
        ({"entropy": torch.full((3,), float("inf"))}, "entropy that are not finite"),
        ({"targets": torch.full((2, 3), 1.5)}, r"targets outside \[0, 1\]"),
        ({"confidence": torch.full((3,), -0.5)}, r"confidence outside \[0, 1\]"),
        ({"uncovered_mass": float("nan")}, "uncovered_mass that are not finite"),
        ({"tokens": torch.tensor([5, -1, 5])}, "negative positions, tokens or entropies"),
        ({"sources": torch.tensor([0, 3])}, "sources that are not places among its positions"),
        ({"sources": torch.tensor([1, 1])}, "sources that are not places among its positions"),
    ],
)
def test_numbers_that_cannot_be_are_never_written(folder, change, problem):
    message = f"`model` must give finite numbers in their range, got a state with {problem}"
    with pytest.raises(ValueError, match=message):
        write_shard(shard_path(folder, 0), [EXAMPLES[1], replace(EXAMPLES[0], **change)])
    assert len(StoredExamples(folder)) == 3
