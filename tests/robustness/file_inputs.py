"""Damaged folders of models and heads, and damaged files of tasks and of training data."""

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from campaign import Case
from safetensors.torch import load_file, save_file

import demask_hf
from demask_hf.tasks import load_task
from demask_hf.training.prompts import check_source


NAN, INF = float("nan"), float("inf")
#: Damage to any JSON file.
_BYTES = {
    "empty": b"",
    "binary": bytes(range(256)) * 8,
    "cut": b'{"model_type": "demask", "wid',
    "a list": b"[1, 2]",
    "a number": b"3",
    "a text": b'"demask"',
    "null": b"null",
    "deep": b"[" * 100_000,
    "utf-16": '{"a": 1}'.encode("utf-16"),
}
_NO_SIZES = (-1, 0, 1.5, "3", None, [], {}, NAN, INF, 10**9, 2**70)
_HEAD_FIELDS = {
    "backbone_hidden_size": (*_NO_SIZES, 33),
    "width": (*_NO_SIZES, 63, 128),
    "num_attention_heads": (*_NO_SIZES, 3),
    "num_mixing_layers": (-1, 1.5, "3", [], NAN, 10**6, 2**70),
    "num_distance_buckets": (*_NO_SIZES, 7),
    "max_distance": (-1, 0, 1.5, "3", None, [], NAN),
    "logits_shift": (-1, 2, 0.5, "1", None, [], NAN),
    "model_type": ("bert", "x", 3),
    "reads_certainty": ("no", 2, None, []),
}
_MODEL_FIELDS = {
    "hidden_size": (*_NO_SIZES, 161),
    "num_hidden_layers": (*_NO_SIZES, 5, 7),
    "num_attention_heads": (*_NO_SIZES, 7),
    "num_key_value_heads": (-1, 0, 1.5, "3", [], {}, NAN, 7),
    "intermediate_size": (*_NO_SIZES, 431),
    "vocab_size": (*_NO_SIZES, 116),
    "architectures": (["LLaDAModelLM"], ["X"]),
    "model_type": ("bert2", "llada"),
}


def _changed(folder: Path, name: str, change: Callable[[Path], None]) -> Path:
    """Return a copy of a folder with one file changed."""
    copy = folder.parent / f"{folder.name}-copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    change(copy / name)
    return copy


def _with_fields(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def _weights(change: Callable[[dict[str, torch.Tensor]], None], file: Path) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})


def _tensor_damage() -> dict[str, Callable[[dict[str, torch.Tensor]], None]]:
    def first(tensors: dict[str, torch.Tensor]) -> str:
        return sorted(name for name, tensor in tensors.items() if tensor.ndim == 2)[0]

    def replaced(change: Callable[[torch.Tensor], torch.Tensor], tensors: dict[str, torch.Tensor]) -> None:
        tensors[first(tensors)] = change(tensors[first(tensors)])

    def filled(value: float, tensor: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(tensor.numel()).view_as(tensor) == 0, value, tensor)

    return {
        "a missing tensor": lambda tensors: tensors.__delitem__(first(tensors)),
        "no tensor": lambda tensors: tensors.clear(),
        "a foreign tensor": lambda tensors: tensors.update(foreign=torch.zeros(2)),
        "a wider tensor": partial(replaced, lambda tensor: torch.cat([tensor, tensor], dim=1)),
        "a flat tensor": partial(replaced, lambda tensor: tensor.flatten()),
        "integers": partial(replaced, lambda tensor: tensor.long()),
        "booleans": partial(replaced, lambda tensor: tensor.bool()),
    }


def _head_only_damage() -> dict[str, Callable[[dict[str, torch.Tensor]], None]]:
    def spoiled(value: float, tensors: dict[str, torch.Tensor]) -> None:
        tensors[sorted(tensors)[0]].view(-1)[0] = value

    return {"NaN": partial(spoiled, NAN), "infinity": partial(spoiled, INF)}


def _as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _indexed(entry: Any, file: Path) -> None:
    """Replace weights by an index in which every tensor has the same entry."""
    names = dict.fromkeys(load_file(file), entry)
    file.unlink()
    torch.save({}, file.parent / "weights.bin")
    (file.parent / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def _bytes(content: bytes, file: Path) -> None:
    file.write_bytes(content)


_ENTRIES = ("weights.bin", "../outside.safetensors", "/etc/passwd", "x/y.safetensors", "none.safetensors", 3)


def _folders(
    kind: str, folder: Path, fields: dict[str, tuple[Any, ...]], use: Callable[[Path], Any]
) -> Iterator[Case]:
    """Yield uses of damaged copies of a folder."""
    config, weights = "config.json", "model.safetensors"
    damage: list[tuple[str, str, Callable[[Path], None]]] = []
    for name in (config, weights):
        damage += [(f"{name} {what}", name, partial(_bytes, content)) for what, content in _BYTES.items()]
        damage += [(f"no {name}", name, Path.unlink), (f"{name} a folder", name, _as_folder)]
    for field, values in fields.items():
        damage += [(f"{field}={value!r}", config, partial(_with_fields, **{field: value})) for value in values]
    tensors = _tensor_damage() | (_head_only_damage() if kind == "heads" else {})
    damage += [(what, weights, partial(_weights, change)) for what, change in tensors.items()]
    damage += [("weights cut at the end", weights, _cut)]
    damage += [(f"index {entry}", weights, partial(_indexed, entry)) for entry in _ENTRIES]

    def used(name: str, change: Callable[[Path], None]) -> None:
        use(_changed(folder, name, change))

    for what, name, change in damage:
        yield Case(kind, what, partial(used, name, change))


_LINES = {
    "gsm8k": {"question": "1 + 1?", "answer": "It is 2. #### 2"},
    "data": {"prompt": "a", "answer": "b"},
}


def _line_files(name: str, use: Callable[[Path], Any], folder: Path) -> Iterator[Case]:
    """Yield damaged files of JSON Lines."""
    right = json.dumps(_LINES[name]).encode()
    contents = dict(_BYTES)
    contents |= {
        "a cut line": right + b"\n" + right[:-5],
        "a list in a line": right + b"\n[1]",
        "a number in a line": right + b"\n3",
        "only blank lines": b"\n\n\n",
        "a NUL": right + b"\n\0",
    }
    for field in _LINES[name]:
        others = {"missing": None, "empty": "", "a number": 3, "a list": ["a"], "an object": {}, "true": True}
        for what, value in others.items():
            line = {**_LINES[name], field: value}
            if value is None:
                del line[field]
            contents[f"{field} {what}"] = right + b"\n" + json.dumps(line).encode()

    def written(content: bytes) -> None:
        file = folder / f"{name}.jsonl"
        file.write_bytes(content)
        use(file)

    for what, content in contents.items():
        yield Case(f"files of {name}", what, partial(written, content))
    yield Case(f"files of {name}", "a folder", partial(use, folder))
    yield Case(f"files of {name}", "no file", partial(use, folder / "none.jsonl"))


def cases(folder: Path) -> Iterator[Case]:
    """Yield uses of damaged folders and files that must be refused; `folder` is empty."""
    head, model = folder / "head", folder / "model"
    shutil.copytree(demask_hf.TINY_DEMASK, head)
    shutil.copytree(demask_hf.TINY_DREAM, model)
    backbone, _ = demask_hf.load_model(demask_hf.TINY_DREAM, device="cpu")
    yield from _folders("heads", head, _HEAD_FIELDS, lambda path: backbone.load_demask_head(str(path)))
    yield from _folders("models", model, _MODEL_FIELDS, lambda path: demask_hf.load_model(str(path), device="cpu"))
    lines = folder / "lines"
    lines.mkdir()
    yield from _line_files("gsm8k", lambda path: load_task("gsm8k", path), lines)
    yield from _line_files("data", check_source, lines)

    def unpacked(content: bytes) -> None:
        file = lines / "gsm8k.jsonl.gz"
        file.write_bytes(content)
        load_task("gsm8k", file)

    yield Case("files of gsm8k", "a bomb", partial(unpacked, gzip.compress(bytes(2**29), 1)))
    yield Case("files of gsm8k", "no gzip", partial(unpacked, b"x" * 100))
    yield Case("files of gsm8k", "a cut gzip", partial(unpacked, gzip.compress(bytes(10_000))[:20]))
