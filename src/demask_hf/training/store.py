"""Measured states on disk: sharded safetensors, written completely or not at all, read one state at a time."""

import errno
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset

from ..files import read_json, replacing
from .examples import DependencyExample


COLLECTION_FILE = "collection.json"
#: The files of a collection's states.
SHARDS = "shard-*.safetensors"
# Tensors with one entry per masked position, as described in `DependencyExample`.
_PER_POSITION = ("hidden_states", "positions", "confidence", "entropy", "tokens")
_INTEGERS = ("positions", "tokens")


def shard_path(folder: str | Path, index: int) -> Path:
    """Return the file of a shard."""
    return Path(folder) / f"shard-{index:05d}.safetensors"


def write_shard(file: Path, examples: Sequence[DependencyExample], states_dtype: torch.dtype = torch.bfloat16) -> None:
    """Write examples to a temporary file and then move it into place, so that a shard is complete or missing.

    Args:
        file (`Path`):
            The shard.
        examples (`Sequence[DependencyExample]`):
            At least one example.
        states_dtype (`torch.dtype`, *optional*, defaults to `torch.bfloat16`):
            Precision of the hidden states on disk.

    Raises:
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
    try:
        with replacing(file) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise OSError(
                f"the disk is full: {file.name} was not written; the shards before it are complete."
            ) from None
        raise


class StoredExamples(Dataset):
    """Read a collection; hidden states are fetched from disk one state at a time.

    Args:
        folder (`str` or `Path`):
            Folder of a collection. Shards of several machines are merged by copying them into one folder.

    Raises:
        ValueError: if the folder holds no collection, shards are missing, or one is broken.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / COLLECTION_FILE).is_file():
            raise ValueError(f"`data` must be a folder that `demask-hf collect` wrote, got {str(folder)!r}.")
        #: Settings and provenance of the collection.
        self.facts: dict[str, Any] = read_json(folder / COLLECTION_FILE)
        num_shards = self.facts["num_shards"]
        self._files = [shard_path(folder, index) for index in range(num_shards)]
        num_found = sum(file.is_file() for file in self._files)
        if num_found < num_shards:
            raise ValueError(
                f"`data` must be a finished collection, got {num_found} of {num_shards} shards in {str(folder)!r}: "
                "run the same collect command again to resume."
            )
        self._open_files: dict[int, Any] = {}
        self._indices = [_ShardIndex(self._opened(shard)) for shard in range(num_shards)]
        self._ends = torch.tensor([len(index) for index in self._indices]).cumsum(0).tolist()
        #: Number of the prompt of every state, shape `(num_states,)`.
        self.records = torch.cat([index.records for index in self._indices])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> DependencyExample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be below {len(self)}, got {index}.")
        index %= len(self)
        shard = bisect_right(self._ends, index)
        return self._indices[shard].read(self._opened(shard), index - ([0, *self._ends][shard]))

    def __getstate__(self) -> dict[str, Any]:
        # Open files cannot be sent to the worker processes of a data loader.
        return {**self.__dict__, "_open_files": {}}

    def _opened(self, shard: int) -> Any:
        if shard not in self._open_files:
            file = self._files[shard]
            try:
                self._open_files[shard] = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                reason = str(error).splitlines()[0]
                raise ValueError(
                    f"`data` must hold complete shards, got {str(file)!r}, which cannot be read ({reason}): delete it "
                    "and run the same collect command again."
                ) from None
        return self._open_files[shard]


class _ShardIndex:
    """Offsets of the states of one shard in its tensors."""

    def __init__(self, file: Any):
        num_positions, num_sources = file.get_tensor("num_positions").long(), file.get_tensor("num_sources").long()
        self.records, self._uncovered = file.get_tensor("records"), file.get_tensor("uncovered_mass").tolist()
        self._positions, self._sources, self._targets = (
            [0, *sizes.cumsum(0).tolist()] for sizes in (num_positions, num_sources, num_positions * num_sources)
        )

    def __len__(self) -> int:
        return self.records.numel()

    def read(self, file: Any, row: int) -> DependencyExample:
        """Return one state."""
        start, end = self._positions[row : row + 2]
        facts = {name: file.get_slice(name)[start:end] for name in _PER_POSITION}
        facts |= {name: facts[name].long() for name in _INTEGERS}
        sources = file.get_slice("sources")[slice(*self._sources[row : row + 2])].long()
        targets = file.get_slice("targets")[slice(*self._targets[row : row + 2])]
        return DependencyExample(
            **facts,
            sources=sources,
            targets=targets.view(sources.numel(), end - start),
            uncovered_mass=self._uncovered[row],
            record=int(self.records[row]),
        )
