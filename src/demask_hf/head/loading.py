"""Load a dependency head: from safetensors only, completely, and with a one-sentence error if it fails."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from .certificate import uncertify
from .configuration_demask import DemaskConfig
from .modeling_demask import DemaskHead
from .weights import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BUILDING,
    INDEX,
    WEIGHTS,
    Header,
    adapter_files,
    check_floats,
    find,
    read_header,
    read_object,
    stored_files,
)


# One file of each line must exist: of a head, of a sharded head, or of a PEFT adapter of a head.
_NEEDED = (("config.json", ADAPTER_CONFIG), (WEIGHTS, INDEX, ADAPTER_WEIGHTS))
# Where the tensors show a size that the configuration says, too: a tensor and one of its dimensions.
_SIZES = {
    "backbone_hidden_size": ("input_norm.weight", 0),
    "width": ("norm.weight", 0),
    "num_distance_buckets": ("distance_bias.weight", 1),
}
# Errors of the Hub client, most specific first, and how the sentence continues after "got".
_REASONS = (
    (RevisionNotFoundError, "{name}, which has no revision {revision!r}"),
    (GatedRepoError, "{name}, which is gated: pass a `token` that has access"),
    (RepositoryNotFoundError, "{name}, which does not exist or is private: check the name, or pass a `token`"),
    (LocalEntryNotFoundError, "{name}, which is not on this machine while the Hub cannot be reached"),
    (EntryNotFoundError, "{name}, where a file is missing: a head needs config.json and model.safetensors"),
)


def load_head(name_or_path: str, **kwargs: Any) -> DemaskHead:
    """Load a dependency head from a folder or the Hub.

    Args:
        name_or_path (`str`):
            Folder or Hub repository of a head, or of a PEFT adapter of one.
        kwargs:
            Arguments of [`DemaskHead.from_pretrained`], such as `revision`, `token` or `dtype`.

    Raises:
        OSError: if the repository, the revision or a file does not exist.
        ValueError: if it is not a head, a file is damaged, or the tensors are not those of the head that its
            configuration describes: missing, further, of other shapes, no floating-point numbers, or not finite.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise ValueError(f"`head` must name a folder or Hub repository, got {name_or_path!r}.")
    name = repr(str(name_or_path))
    try:
        check_files(name_or_path, kwargs)
        with BUILDING:
            loaded: Any = DemaskHead.from_pretrained(
                name_or_path, **{**kwargs, "use_safetensors": True, "output_loading_info": True}
            )
        head, info = loaded
    except SafetensorError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`head` must have a whole model.safetensors, got {name}, whose file is corrupted or truncated ({reason})."
        ) from error
    except (OSError, HFValidationError) as error:
        reason = _reason(error, kwargs.get("revision")) or _missing_reason(error)
        raise OSError(
            f"`head` must be a folder or Hub repository of a head, got {reason.format(name=name)}."
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"`head` must have tensors of the shapes in its config.json, got {name} with other shapes."
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # Those of this package begin with the name of an argument; PEFT has others for an adapter.
        if str(error).startswith("`") or not is_adapter(name_or_path, kwargs):
            raise
        reason = next(iter(str(error).splitlines()), "").rstrip(".:")
        raise ValueError(f"`head` must be an adapter that fits its head, got {name} ({reason}).") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"`head` must hold every tensor of a dependency head, got {name} without {len(missing)} of them, such as "
            f"{missing[0]}{_hint(missing[0])}."
        )
    check_finite(head, name)
    if getattr(head, "_hf_peft_config_loaded", False):
        _check_adapter(head, name, adapter_files("head", name_or_path, kwargs)[1])
        # What was certified is the head without the adapter.
        uncertify(head)
    return head


def _hint(missing: str) -> str:
    """Return what to do about a tensor that transformers did not load, as the end of a sentence."""
    is_of_adapter = ".modules_to_save." in missing
    return " (transformers before 5.18 leaves them out: use `load_merged(adapter)`)" if is_of_adapter else ""


def is_adapter(name_or_path: Any, access: Mapping[str, Any]) -> bool:
    """Return whether a folder or repository holds a PEFT adapter."""
    return find(name_or_path, ADAPTER_CONFIG, access) is not None


def _check_adapter(head: Any, name: str, header: Header) -> None:
    """Refuse an adapter with tensors that did not arrive."""
    prefix = "base_model.model."
    found = {tensor.removeprefix(prefix) for tensor in head.get_adapter_state_dict()}
    if lost := sorted({tensor.removeprefix(prefix) for tensor in header} - found):
        raise ValueError(
            f"`head` must be an adapter whose tensors all have a place in its head, got {name} with {len(lost)} "
            f"without one, such as {lost[0]}."
        )


def check_files(name_or_path: Any, access: Mapping[str, Any]) -> None:
    """Refuse what is not a head, or an adapter of one, before anything is built or fills the memory.

    If the configuration is missing, transformers continues with default settings; if the weights are missing, it asks
    a service on the Hub to convert the repository.
    """
    for needed in _NEEDED:
        if all(find(name_or_path, file, access) is None for file in needed):
            raise OSError(f"there is no {needed[0]}")
    if is_adapter(name_or_path, access):
        adapter, _ = adapter_files("head", name_or_path, access)
        base = adapter.get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise ValueError(
                f"`head` must be an adapter that names its head, got {str(name_or_path)!r} with "
                f"`base_model_name_or_path` {base!r}."
            )
        # The revision, the subfolder and the variant are those of the adapter.
        kept = {name: value for name, value in access.items() if name not in ("revision", "subfolder", "variant")}
        check_files(base, kept)
        return
    file = find(name_or_path, "config.json", access)
    found = {} if file is None else read_object("head", file)
    if found.get("model_type", DemaskConfig.model_type) != DemaskConfig.model_type:
        raise ValueError(
            f"`head` must be a dependency head, got {str(name_or_path)!r}, whose config.json is that of a "
            f"{found['model_type']!r} model."
        )
    header: Header = {}
    for weights in stored_files("head", name_or_path, access, found):
        header |= read_header("head", weights, name_or_path)
    if header:
        check_floats("head", name_or_path, header)
        _check_header(repr(str(name_or_path)), DemaskConfig.from_dict(found), header)


def _check_header(name: str, config: DemaskConfig, header: Header) -> None:
    """Refuse tensors that are not those of the head that a configuration describes."""
    rule = f"`head` must have tensors of the shapes in its config.json, got {name}"
    said: dict[str, Any] = {
        field: header[tensor][1][place] for field, (tensor, place) in _SIZES.items() if _has(header, tensor, place)
    }
    layers = {tensor.split(".")[1] for tensor in header if tensor.startswith("mixing_layers.")}
    if "norm.weight" in header:
        said["num_mixing_layers"] = len(layers)
        said["reads_certainty"] = "certainty_projection.weight" in header
    if layers and _has(header, "distance_bias.weight", 0):
        said["num_attention_heads"] = (header["distance_bias.weight"][1][0] - 1) // len(layers)
    for field, value in said.items():
        if getattr(config, field) != value:
            raise ValueError(f"{rule}, where `{field}` is {getattr(config, field)} and the tensors say {value}.")
    with torch.device("meta"):
        expected = {tensor: tuple(value.shape) for tensor, value in DemaskHead(config).state_dict().items()}
    for tensor, (_, shape) in header.items():
        if tensor in expected and shape != expected[tensor]:
            raise ValueError(f"{rule} with {tensor} of shape {shape} instead of {expected[tensor]}.")
    if further := sorted(header.keys() - expected.keys()):
        raise ValueError(
            f"`head` must hold the tensors of a dependency head and no others, got {name} with {len(further)} without "
            f"a place in it, such as {further[0]}."
        )


def _has(header: Header, tensor: str, place: int) -> bool:
    return tensor in header and len(header[tensor][1]) > place


def check_finite(head: torch.nn.Module, name: str) -> None:
    """Refuse a head with weights that are NaN or infinite: its dependencies would mean nothing.

    Args:
        head (`torch.nn.Module`):
            The head, or an adapter around one.
        name (`str`):
            Where it comes from.
    """
    for tensor, value in head.named_parameters():
        if value.device.type != "meta" and not torch.isfinite(value).all():
            raise ValueError(f"`head` must hold finite weights, got {name} with NaN or infinity in {tensor}.")


def _reason(error: BaseException, revision: str | None) -> str | None:
    """Return the sentence for the Hub client's error that caused another one, with `{name}` left open."""
    for cause in _chain(error):
        for kind, text in _REASONS:
            if isinstance(cause, kind):
                return text.format(name="{name}", revision=revision or "main")
    return None


def _missing_reason(error: OSError | HFValidationError) -> str:
    """Return the reason for an error that transformers itself raised because a file is missing."""
    if "model.safetensors" in str(error):
        return "{name}, which has no model.safetensors"
    if "config.json" in str(error):
        return "{name}, which has no config.json"
    return "{name}: " + str(error).splitlines()[0].rstrip(".").replace("{", "(").replace("}", ")")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
