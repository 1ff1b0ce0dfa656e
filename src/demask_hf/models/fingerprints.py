"""Checksums of what results depend on: weights, configurations and tokenizer of a model."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch

from ..files import code_version


# Tensors that are read at the same time for a checksum.
_NUM_READERS = 4
# Where a configuration comes from and how it was written; the number format is that of the weights.
_NEUTRAL_SETTINGS = ("_name_or_path", "_commit_hash", "transformers_version", "architectures", "dtype", "torch_dtype")


def weights_fingerprint(*modules: torch.nn.Module | None, without: str | None = None) -> str:
    """Return a checksum of all bytes of the weights of some modules, with their names, shapes and number formats.

    Tensors are read one by one, a few at the same time, so the modules are never copied. Weights that accelerate
    offloaded are read from where they are; weights on the device "meta" that nothing holds count by name and shape
    only, because there is nothing to read.

    Args:
        modules (`torch.nn.Module`, *optional*):
            Modules in a fixed order; `None` stands for a missing one.
        without (`str`, *optional*):
            Weights with this in their names do not count.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    present = [(number, module) for number, module in enumerate(modules) if module is not None]
    states = {number: module.state_dict(keep_vars=True) for number, module in present}
    jobs = [(number, name, module) for number, module in present for name in sorted(states[number])]
    jobs = [job for job in jobs if without is None or without not in job[1]]
    digest = hashlib.sha256()

    def checksum(job: tuple[int, str, torch.nn.Module]) -> bytes:
        number, name, module = job
        value = states[number][name]
        found = hashlib.sha256(f"{number}/{name}/".encode())
        _add_value(found, value if not _is_meta(value) else _offloaded(module, name, value))
        return found.digest()

    # Checksums and copies from devices leave other threads running.
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        for found in readers.map(checksum, jobs):
            digest.update(found)
    return digest.hexdigest()[:16]


def model_facts(model: Any, tokenizer: Any = None) -> dict[str, Any]:
    """Return what results depend on apart from data and settings of a command, of JSON types.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model, with its head if it has one.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Its tokenizer, where it reads the prompts.

    Returns:
        `dict`: the version of this package, the number format, and checksums of weights, configurations and tokenizer.
    """
    modules = {"model": model, "head": getattr(model, "demask_head", None)}
    modules = {name: module for name, module in modules.items() if module is not None}
    configs = {name: getattr(module, "config", None) for name, module in modules.items()}
    configs["generation"] = getattr(model, "generation_config", None)
    facts = {
        "version": code_version(),
        "dtype": str(getattr(model, "dtype", None)),
        "weights": {name: weights_fingerprint(module) for name, module in modules.items()},
        "configuration": {name: _digest(_settings_of(config)) for name, config in configs.items()},
    }
    return facts if tokenizer is None else {**facts, "tokenizer": _digest(_tokenizer_settings(tokenizer))}


def _is_meta(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "meta"


def _offloaded(module: torch.nn.Module, name: str, value: torch.Tensor) -> torch.Tensor:
    """Return a weight that a hook of accelerate keeps elsewhere, or the empty one if none does."""
    owner, _, leaf = name.rpartition(".")
    hook = getattr(module.get_submodule(owner), "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        kept = getattr(each, "weights_map", None)
        if kept is not None:
            with suppress(KeyError):
                return torch.as_tensor(kept[leaf])
    return value


def _add_value(digest: Any, value: Any) -> None:
    """Add shape, number format and bytes of a tensor to a checksum, or what else a module keeps."""
    if not isinstance(value, torch.Tensor):
        digest.update(repr(value).encode())
        return
    digest.update(f"{value.dtype}/{tuple(value.shape)}".encode())
    if hasattr(value, "__tensor_flatten__"):
        # Quantised weights are made of several tensors.
        for name in value.__tensor_flatten__()[0]:
            _add_value(digest, getattr(value, name))
    elif not _is_meta(value):
        # As bytes, because numpy has no bfloat16.
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def _settings_of(config: Any) -> dict[str, Any]:
    """Return the settings of a configuration that change results; names, places and versions do not."""
    settings = {} if config is None else config.to_diff_dict()
    return {name: value for name, value in settings.items() if name not in _NEUTRAL_SETTINGS}


def _tokenizer_settings(tokenizer: Any) -> dict[str, Any]:
    """Return what a tokenizer makes of texts: its vocabulary, rules, special tokens and chat template."""
    settings = {"vocabulary": tokenizer.get_vocab(), "template": tokenizer.chat_template}
    settings["special"] = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: dict[str, Any] = {}
    # Rules that are written in Python cannot be turned into text.
    with suppress(Exception):
        rules = {} if backend is None else json.loads(backend.to_str())
    # The last call sets these.
    return settings | {"rules": {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}}


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
