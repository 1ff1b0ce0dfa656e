"""Load a model with its tokenizer and dependency head."""

import os
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import is_accelerate_available

from ..generation.mixin import DemaskGenerationMixin
from ..head.weights import BUILDING, find, read_object, stored_files
from .attach import attach, warn_of_another_mask
from .quantization import check_quantized, quantized


# What conversions of autoregressive models call it.
_MASK_TOKENS = ("<|mask|>", "<|MASK|>")


def load_model(
    name: str,
    head: str | None = None,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    quantization: str | None = None,
) -> tuple[DemaskGenerationMixin, PreTrainedTokenizerBase]:
    """Load a masked diffusion model, or a masked language model, ready for `generate(strategy=...)`.

    Args:
        name (`str`):
            Folder or Hub repository of the model.
        head (`str`, *optional*):
            Folder or Hub repository of its dependency head; without one, only strategies that need no head work.
        device (`str` or `torch.device`, *optional*):
            Device of the whole model; by default a GPU if there is one.
        device_map (`str` or `dict`, *optional*):
            As in `from_pretrained`, such as `"auto"`, which spreads the model over all available devices; instead of
            `device`.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
            Number format of the weights; "auto" keeps that of the file.
        revision (`str`, *optional*):
            Revision of the model's repository.
        quantization (`str`, *optional*):
            Weights of "int8" or "int4", made by torchao while the model is loaded; "int4" needs a GPU. The head stays
            as it is.

    Returns:
        `tuple`: the model, with the `generate` of this package, and its tokenizer.

    Raises:
        ValueError: if a path does not exist, weights are not in safetensors files, the device is unknown, or the head
            was made for another model, or the quantization does not fit. OSError: if a repository, revision or file
            cannot be found. ImportError: if `device_map` is given and accelerate is not installed, or `quantization`
            and torchao is missing or too old.

    Example:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM, head=demask_hf.TINY_DEMASK, device="cpu")
    >>> inputs = tokenizer("shuffle: JFP BDCP FCG DL MRH TFC -> ", return_tensors="pt")
    >>> tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True)
    'shuffle: JFP BDCP FCG DL MRH TFC -> JPF PDCB FGC LD MHR FTC'

    ```
    """
    for argument, path in (("model", name), ("head", head)):
        if path is not None and not os.path.isdir(path):
            _check_repository(argument, path)
    place = _place(device, device_map)
    revision = revision or "main"
    quantize = None if quantization is None else quantized(quantization, place, dtype)
    _check_files(name, revision)
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    model = _loaded(name, revision, place, device_map, dtype, quantize)
    if not isinstance(model, DemaskGenerationMixin):
        attach(model, tokenizer=tokenizer)
    else:
        warn_of_another_mask(model.config, tokenizer)
        _take_mask(model.config, tokenizer)
    if head is not None:
        model.load_demask_head(head)
    return model, tokenizer


def _loaded(
    name: str,
    revision: str,
    place: torch.device | None,
    device_map: str | dict[str, Any] | None,
    dtype: str | torch.dtype,
    quantize: tuple[Any, str | torch.dtype] | None,
) -> Any:
    """Return the model on its device, or spread by the map; quantised if there is a config with its number format."""
    options: dict[str, Any] = {"revision": revision, "use_safetensors": True}
    if quantize is not None:
        options["quantization_config"], dtype = quantize
        if place is not None and place.type != "cpu":
            # Quantised where it stays: some formats cannot be moved.
            device_map, place = {"": place}, None
    with BUILDING:
        model = AutoModelForMaskedLM.from_pretrained(name, dtype=dtype, device_map=device_map, **options)
    if quantize is not None:
        check_quantized(model)
    return model if place is None else model.to(place)


def _place(device: str | torch.device | None, device_map: str | dict[str, Any] | None) -> torch.device | None:
    """Return the device of the whole model; `None` if a `device_map` says where its parts are."""
    if device_map is None:
        return checked_device(device)
    if device is not None:
        raise ValueError(f"`device` must be None with a `device_map`, got {device!r} and {device_map!r}.")
    if not is_accelerate_available():
        raise ImportError("`accelerate` must be installed for a `device_map`: pip install accelerate.")
    return None


def _check_repository(argument: str, name: str) -> None:
    """Raise a `ValueError` unless a name that is no folder may be that of a Hub repository."""
    if name.startswith(("/", ".")):
        is_file = os.path.exists(name)
        raise ValueError(
            f"`{argument}` must be a folder or a Hub repository, got {name!r}, which "
            f"{'is a file' if is_file else 'does not exist'}."
        )
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"`{argument}` must be a folder or a Hub repository, got {name!r}: {reason}") from None


def _check_files(name: str, revision: str) -> None:
    """Refuse a damaged config, and weights of another format, which may run code, or of another folder."""
    config = find(name, "config.json", {"revision": revision})
    if config is not None:
        stored_files("model", name, {"revision": revision}, read_object("model", config))
        try:
            # The tokenizer would read it as the config of any model first, whose errors are none of ours.
            AutoConfig.from_pretrained(name, revision=revision)
        except StrictDataclassError as error:
            if isinstance(error, ValueError):
                raise
            reason = " ".join(str(error).split())
            raise ValueError(f"`model` must have a config whose fields fit together, got {reason}.") from error


def _take_mask(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a config without a mask token that of its tokenizer, which may have it as an ordinary special token."""
    if getattr(config, "mask_token_id", None) is not None:
        return
    vocabulary = tokenizer.get_vocab()
    named = (vocabulary[token] for token in _MASK_TOKENS if token in vocabulary)
    config.mask_token_id = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else next(named, None)


def checked_device(device: str | torch.device | None) -> torch.device:
    """Return an available device; by default a GPU if there is one.

    Raises:
        ValueError: if torch does not know the name, or the machine has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"`device` must name a device of torch, such as cpu or cuda, got {device!r}.") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"`device` must be a device that this machine has, got {device!r}.")
    return chosen
