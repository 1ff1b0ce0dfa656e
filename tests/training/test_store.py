import errno
import pickle

import pytest
import torch

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
