"""Measured states on disk: sharded safetensors, written completely or not at all, read and checked state by state."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset

from ..files import disk_error, read_json, replacing
from ..validation import check_count
from .examples import DependencyExample


COLLECTION_FILE = "collection.json"
#: The files of a collection's states.
SHARDS = "shard-*.safetensors"
# Tensors with one entry per masked position, as described in `DependencyExample`.
_PER_POSITION = ("hidden_states", "positions", "confidence", "entropy", "tokens")
_INTEGERS = ("positions", "tokens")
# Those and the tensors with several entries per state, in the order of a state's checksum; then one entry per state.
_PER_STATE = (*_PER_POSITION, "sources", "targets")
_INDEX = ("num_positions", "num_sources", "uncovered_mass", "records", "checksums")
# Entry of a shard's metadata.
_IDENTITY = "demask_hf"
# Names of where a collection comes from; what its states depend on are the checksums of weights and prompts.
_PROVENANCE = ("model", "model_revision", "head", "data", "data_split")
# By which sums of probabilities may be off in half precision.
_ROUNDING = 0.01


def shard_path(folder: str | Path, index: int) -> Path:
    """Return the file of a shard."""
    return Path(folder) / f"shard-{index:05d}.safetensors"


def write_shard(
    file: Path,
    examples: Sequence[DependencyExample],
    states_dtype: torch.dtype = torch.bfloat16,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write examples to a temporary file and then move it into place, so that a shard is complete or missing.

    Args:
        file (`Path`):
            The shard.
        examples (`Sequence[DependencyExample]`):
            At least one example.
        states_dtype (`torch.dtype`, *optional*, defaults to `torch.bfloat16`):
            Precision of the hidden states on disk.
        facts (`dict`, *optional*):
            Facts of the collection that the shard belongs to; by default those in its folder.

    Raises:
        ValueError: if an example holds numbers that are not finite, or outside their range.
        OSError: if the disk is full; earlier shards stay complete.
    """
    tensors = {name: torch.cat([getattr(example, name) for example in examples]) for name in _PER_POSITION}
    tensors["hidden_states"] = tensors["hidden_states"].to(states_dtype)
    tensors |= {name: tensors[name].int() for name in _INTEGERS}
    tensors["sources"] = torch.cat([example.sources for example in examples]).int()
    tensors["targets"] = torch.cat([example.targets.float().flatten() for example in examples])
    tensors["num_positions"] = torch.tensor([example.positions.numel() for example in examples], dtype=torch.int32)
    tensors["num_sources"] = torch.tensor([example.sources.numel() for example in examples], dtype=torch.int32)
    tensors["uncovered_mass"] = torch.tensor([example.uncovered_mass for example in examples])
    tensors["records"] = torch.tensor([example.record for example in examples])
    states = [_state(tensors, slices) for slices in _slices(tensors["num_positions"], tensors["num_sources"])]
    for state, example in zip(states, examples, strict=True):
        problem = _problem_of(state, example.uncovered_mass)
        if problem is not None:
            raise ValueError(f"`model` must give finite numbers in their range, got a state with {problem}.")
    tensors["checksums"] = torch.tensor([_state_checksum(state) for state in states])
    collection = _collection_of(_facts_in(file.parent) if facts is None else facts)
    identity = {"shard": file.name, "collection": collection, "checksum": _index_checksum(tensors)}
    # One entry, because several are written in any order.
    metadata = {_IDENTITY: json.dumps(identity)}
    with replacing(file) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise disk_error(str(error)) from None


class StoredExamples(Dataset):
    """Read a collection; hidden states are fetched from disk one state at a time, and each is checked when it is read.

    Args:
        folder (`str` or `Path`):
            Folder of a collection. Shards of several machines are merged by copying them into one folder.

    Raises:
        ValueError: if the folder holds no collection, shards are missing, or one is broken or of another collection;
            also when a state is read that is not as it was written.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / COLLECTION_FILE).is_file():
            raise ValueError(f"`data` must be a folder that `demask-hf collect` wrote, got {str(folder)!r}.")
        #: Settings and provenance of the collection.
        self.facts: dict[str, Any] = read_json(folder / COLLECTION_FILE)
        num_shards = self.facts.get("num_shards")
        check_count(f"num_shards` in `{COLLECTION_FILE}", num_shards)
        self._files = [shard_path(folder, index) for index in range(num_shards or 0)]
        num_found = sum(file.is_file() for file in self._files)
        if num_found < len(self._files):
            raise ValueError(
                f"`data` must be a finished collection, got {num_found} of {num_shards} shards in {str(folder)!r}: "
                "run the same collect command again to resume."
            )
        self._open_files: dict[int, Any] = {}
        collection = _collection_of(self.facts)
        self._indices = [_index_of(file, self._opened(shard), collection) for shard, file in enumerate(self._files)]
        self._ends = torch.tensor([len(index) for index in self._indices]).cumsum(0).tolist()
        #: Number of the prompt of every state, shape `(num_states,)`.
        self.records = torch.cat([index.records for index in self._indices])
        #: Checksum of all states and facts.
        self.fingerprint = hashlib.sha256("".join(index.checksum for index in self._indices).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> DependencyExample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be below {len(self)}, got {index}.")
        index %= len(self)
        shard = bisect_right(self._ends, index)
        row = index - ([0, *self._ends][shard])
        try:
            return self._indices[shard].read(self._opened(shard), row)
        except _DamageError as damage:
            raise _broken(self._files[shard], f"{damage} in state {row}") from None

    def __getstate__(self) -> dict[str, Any]:
        # Open files cannot be sent to the worker processes of a data loader.
        return {**self.__dict__, "_open_files": {}}

    def _opened(self, shard: int) -> Any:
        if shard not in self._open_files:
            self._open_files[shard] = _open(self._files[shard])
        return self._open_files[shard]


def check_shard(file: Path, facts: dict[str, Any] | None = None) -> None:
    """Refuse a shard that is broken, or of another collection, without reading its states.

    Args:
        file (`Path`):
            The shard.
        facts (`dict`, *optional*):
            Facts of the collection; by default those in its folder.

    Raises:
        DamagedShardError: if something is wrong.
    """
    _index_of(file, _open(file), _collection_of(_facts_in(file.parent) if facts is None else facts))


class _DamageError(Exception):
    """What is wrong with a shard; the message continues a sentence after its name."""


class DamagedShardError(ValueError):
    """A shard is not as it was written; the message says which and what to do."""

    def __init__(self, message: str):
        # A worker of a data loader passes on its whole traceback, which ends with this message.
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


def _broken(file: Path, damage: str) -> DamagedShardError:
    return DamagedShardError(
        f"`data` must hold complete shards, got {str(file)!r}, which {damage}: delete it and run the same collect "
        "command again."
    )


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise _broken(file, f"cannot be read ({str(error).splitlines()[0]})") from None


def _index_of(file: Path, opened: Any, collection: str) -> "_ShardIndex":
    try:
        return _ShardIndex(opened, file.name, collection)
    except _DamageError as damage:
        raise _broken(file, str(damage)) from None


class _ShardIndex:
    """Offsets of the states of one shard in its tensors, checked against the shard's own checksum and name."""

    def __init__(self, file: Any, name: str, collection: str):
        missing = {*_PER_STATE, *_INDEX} - set(file.keys())
        if missing:
            raise _DamageError(f"lacks {', '.join(sorted(missing))}")
        metadata = _metadata(file)
        if metadata.get("shard") != name:
            raise _DamageError(f"was written as {metadata.get('shard')}")
        if metadata.get("collection") != collection:
            raise _DamageError(f"belongs to a collection with other facts than {COLLECTION_FILE}")
        index = {each: file.get_tensor(each) for each in _INDEX}
        #: Checksum of the index, which holds those of the states, and of what the shard belongs to.
        self.checksum = metadata.get("checksum", "")
        if self.checksum != _index_checksum(index):
            raise _DamageError("has an index that is not as it was written")
        self.records, self._uncovered = index["records"], index["uncovered_mass"].tolist()
        self._checksums = index["checksums"].tolist()
        self._slices = _slices(index["num_positions"], index["num_sources"])

    def __len__(self) -> int:
        return self.records.numel()

    def read(self, file: Any, row: int) -> DependencyExample:
        """Return one state."""
        slices = {name: file.get_slice(name) for name in _PER_STATE}
        try:
            state = _state(slices, self._slices[row])
        except (SafetensorError, RuntimeError):
            raise _DamageError("has tensors that are too short") from None
        if _state_checksum(state) != self._checksums[row]:
            raise _DamageError("has numbers that are not as they were written")
        problem = _problem_of(state, self._uncovered[row])
        if problem is not None:
            raise _DamageError(f"has {problem}")
        return DependencyExample(
            **{name: state[name].long() if name in _INTEGERS else state[name] for name in _PER_POSITION},
            sources=state["sources"].long(),
            targets=state["targets"].view(state["sources"].numel(), state["positions"].numel()),
            uncovered_mass=self._uncovered[row],
            record=int(self.records[row]),
        )


def _metadata(file: Any) -> dict[str, Any]:
    """Return what a shard says that it is; nothing if it was not written by this package."""
    try:
        metadata = json.loads((file.metadata() or {}).get(_IDENTITY, "{}"))
    except ValueError:
        metadata = {}
    return metadata if isinstance(metadata, dict) else {}


def _slices(num_positions: torch.Tensor, num_sources: torch.Tensor) -> list[tuple[slice, slice, slice]]:
    """Return where the positions, the sources and the targets of each state are.

    Raises:
        _DamageError: if a state has no position.
    """
    sizes = num_positions.long(), num_sources.long()
    if sizes[0].numel() == 0 or sizes[0].min() < 1 or sizes[1].min() < 0:
        raise _DamageError("has a state without positions")
    ends = [[0, *each.cumsum(0).tolist()] for each in (*sizes, sizes[0] * sizes[1])]
    return [tuple(slice(*each[row : row + 2]) for each in ends) for row in range(len(ends[0]) - 1)]  # type: ignore


def _state(tensors: Mapping[str, Any], slices: tuple[slice, slice, slice]) -> dict[str, torch.Tensor]:
    """Return the tensors of one state in the form in which they are stored."""
    positions, sources, targets = slices
    state = {name: tensors[name][positions] for name in _PER_POSITION}
    return {**state, "sources": tensors["sources"][sources], "targets": tensors["targets"][targets]}


def _state_checksum(state: dict[str, torch.Tensor]) -> int:
    """Return a checksum of a state that fits a tensor of integers."""
    digest: Any = hashlib.blake2b(digest_size=8)
    for name in _PER_STATE:
        digest.update(state[name].contiguous().flatten().view(torch.uint8).numpy())
    return int.from_bytes(digest.digest(), "big", signed=True)


def _index_checksum(tensors: dict[str, torch.Tensor]) -> str:
    digest: Any = hashlib.sha256()
    for name in _INDEX:
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _facts_in(folder: Path) -> dict[str, Any]:
    file = folder / COLLECTION_FILE
    return read_json(file) if file.is_file() else {}


def _collection_of(facts: dict[str, Any]) -> str:
    """Return a checksum of the facts that the states of a collection depend on; its shards belong to these."""
    facts = {name: value for name, value in facts.items() if name not in _PROVENANCE}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _problem_of(state: dict[str, torch.Tensor], uncovered_mass: float) -> str | None:
    """Return what is wrong with the numbers of a state; `None` if nothing is."""
    shares = {"confidence": state["confidence"], "targets": state["targets"]}
    shares["uncovered_mass"] = torch.tensor([uncovered_mass])
    for name, values in {"hidden_states": state["hidden_states"], "entropy": state["entropy"], **shares}.items():
        if not values.isfinite().all():
            return f"{name} that are not finite"
    for name, values in shares.items():
        if values.numel() and (values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING):
            return f"{name} outside [0, 1]"
    num_positions, sources = state["positions"].numel(), state["sources"]
    if min(state["positions"].min(), state["tokens"].min()) < 0 or state["entropy"].min() < -_ROUNDING:
        return "negative positions, tokens or entropies"
    if sources.numel() and (sources.min() < 0 or sources.max() >= num_positions or (sources.diff() <= 0).any()):
        return "sources that are not places among its positions"
    return None
