"""What a folder or repository holds, read before anything is built: JSON objects, and headers of safetensors files.

Nothing here reads a pickle, and nothing allocates memory for a tensor.
"""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Arguments for the location of a repository and the access to it.
ACCESS = ("revision", "token", "cache_dir", "local_files_only", "proxies", "subfolder")
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

#: Held while a model is built from a checkpoint: transformers then switches the tying of weights off for the whole
#: process, and two threads would leave it off for good.
BUILDING = threading.RLock()
#: Number format and shape of tensors, by name.
Header = dict[str, tuple[str, tuple[int, ...]]]


def find(name_or_path: Any, file: str, access: Mapping[str, Any]) -> Path | None:
    """Return a file of a folder or repository, `None` if it has none of this name.

    Args:
        name_or_path (`str` or `os.PathLike`):
            Folder or Hub repository.
        file (`str`):
            Name of the file.
        access (`dict`):
            Arguments of `from_pretrained`, of which those for the location are used.

    Raises:
        OSError: if the repository or revision cannot be found.
    """
    if os.path.isdir(name_or_path):
        path = Path(name_or_path, access.get("subfolder") or "", file)
        return path if os.path.lexists(path) else None
    given = {name: access[name] for name in ACCESS if access.get(name) is not None}
    found = cached_file(str(name_or_path), file, _raise_exceptions_for_missing_entries=False, **given)
    return None if found is None else Path(found)


def read_object(argument: str, file: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: if the file holds something else; the message names the argument and the file.
    """
    rule = f"`{argument}` must have a JSON object in its {file.name}, got {str(file)!r}"
    if not file.is_file():
        raise ValueError(f"{rule}, which is no file.")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{rule}, which is damaged ({reason}).") from None
    if not isinstance(found, dict):
        raise ValueError(f"{rule}, which holds a {type(found).__name__}.")
    return found


def read_index(argument: str, file: Path) -> dict[str, str]:
    """Return the file of each tensor of a sharded checkpoint.

    Raises:
        ValueError: if the index is damaged, or names anything but safetensors files beside itself: other formats run
            code when they are read, and other folders are none of its business.
    """
    index = read_object(argument, file)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards or not isinstance(index.get("metadata"), dict):
        raise ValueError(
            f"`{argument}` must have a {file.name} with the objects `weight_map` and `metadata`, got {str(file)!r} "
            "without them."
        )
    for shard in shards.values():
        check_name(argument, shard, file)
    return shards


def check_name(argument: str, name: Any, file: Path) -> None:
    """Refuse a file with weights that is no safetensors file beside the file that names it."""
    is_plain = isinstance(name, str) and name in (PurePosixPath(name).name, PureWindowsPath(name).name)
    is_plain = is_plain and not set(name) & {"/", "\\", ":"}
    if not is_plain or not name.endswith(".safetensors"):
        raise ValueError(
            f"`{argument}` must have its weights in safetensors files of its own folder, got {name!r} in "
            f"{str(file)!r}."
        )


def read_header(argument: str, file: Path, name_or_path: Any) -> Header:
    """Return number formats and shapes of the tensors in a safetensors file.

    Raises:
        ValueError: if it is damaged.
    """
    rule = f"`{argument}` must have a whole {file.name}, got {str(name_or_path)!r}, whose file is"
    if not file.is_file():
        raise ValueError(f"{rule} no file.")
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118, it is no dict
            return {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        raise ValueError(f"{rule} corrupted or truncated ({reason}).") from error


def stored_files(argument: str, name_or_path: Any, access: Mapping[str, Any], config: Mapping[str, Any]) -> list[Path]:
    """Return the files with the weights of a checkpoint: the only one, or all of those on this machine.

    Args:
        argument (`str`):
            What the checkpoint was given as, for messages.
        name_or_path (`str` or `os.PathLike`):
            Folder or Hub repository.
        access (`dict`):
            Arguments of `from_pretrained`.
        config (`dict`):
            Its config.json, which may name another file.

    Raises:
        ValueError: if it names a file of another format or place, or has none.
        OSError: if the repository or revision cannot be found.
    """
    asked = config.get("transformers_weights")
    if asked is not None and asked != INDEX:
        check_name(argument, asked, Path("config.json"))
    weights, index = (_with_variant(name, access.get("variant")) for name in (WEIGHTS, INDEX))
    for name in [asked] if asked is not None else [weights, index]:
        file = find(name_or_path, name, access)
        if file is None:
            continue
        if not name.endswith(".json"):
            return [file]
        shards = sorted(set(read_index(argument, file).values()))
        if not os.path.isdir(name_or_path):
            # They are fetched, and looked at, when they are loaded.
            return []
        return [file.with_name(shard) for shard in shards]
    raise ValueError(
        f"`{argument}` must have its weights in {weights} or {index}, got {str(name_or_path)!r}, which has neither: "
        "other formats are not read."
    )


def adapter_files(argument: str, name_or_path: Any, access: Mapping[str, Any]) -> tuple[dict[str, Any], Header]:
    """Return the config of a PEFT adapter, and the header of its weights.

    Raises:
        ValueError: if a file is damaged, or the weights are not in a safetensors file.
        OSError: if the repository or revision cannot be found.
    """
    config = read_object(argument, _needed(argument, name_or_path, ADAPTER_CONFIG, access))
    header = read_header(argument, _needed(argument, name_or_path, ADAPTER_WEIGHTS, access), name_or_path)
    check_floats(argument, name_or_path, header)
    return config, header


def _needed(argument: str, name_or_path: Any, name: str, access: Mapping[str, Any]) -> Path:
    file = find(name_or_path, name, access)
    if file is None:
        raise ValueError(f"`{argument}` must have an {name}, got {str(name_or_path)!r}, which has none.")
    return file


def check_floats(argument: str, name_or_path: Any, header: Header) -> None:
    """Refuse tensors that are not floating-point numbers, which a model would be filled with all the same."""
    for name, (kind, _) in sorted(header.items()):
        if kind not in _FLOATS:
            raise ValueError(
                f"`{argument}` must hold floating-point tensors, got {str(name_or_path)!r} with {kind} in {name}."
            )


def _with_variant(name: str, variant: str | None) -> str:
    """Return the name of a file of a variant, such as "model.fp16.safetensors"."""
    start, _, ending = name.rpartition(".")
    return f"{start}.{variant}.{ending}" if variant else name
