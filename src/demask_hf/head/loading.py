"""Load a dependency head: from safetensors only, completely, and with a one-sentence error if it fails."""

import os
from collections.abc import Iterator
from typing import Any

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers.utils import has_file

from .certificate import uncertify
from .configuration_demask import DemaskConfig
from .modeling_demask import DemaskHead


# One file of each line must exist: of a head, of a sharded head, or of a PEFT adapter of a head.
_NEEDED = (
    ("config.json", "adapter_config.json"),
    ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"),
)
# Arguments for the location of a repository and the access to it.
_ACCESS = ("revision", "token", "cache_dir", "local_files_only", "proxies")
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
        ValueError: if it is not a head, or the file is broken or lacks tensors of the head.
    """
    name = repr(str(name_or_path))
    try:
        _check_files(name_or_path, kwargs)
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
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"`head` must hold every tensor of a dependency head, got {name} without {len(missing)} of them, such as "
            f"{missing[0]}{_hint(missing[0])}."
        )
    if getattr(head, "_hf_peft_config_loaded", False):
        # What was certified is the head without the adapter.
        uncertify(head)
    return head


def _hint(missing: str) -> str:
    """Return what to do about a tensor that transformers did not load, as the end of a sentence."""
    is_of_adapter = ".modules_to_save." in missing
    return " (transformers before 5.18 leaves them out: use `load_merged(adapter)`)" if is_of_adapter else ""


def _check_files(name_or_path: str, kwargs: dict[str, Any]) -> None:
    """Raise if the configuration or the weights are missing, or the configuration is that of another model.

    If the configuration is missing, transformers continues with default settings; if the weights are missing, it asks
    a service on the Hub to convert the repository.
    """
    access = {name: kwargs[name] for name in _ACCESS if name in kwargs}
    for needed in _NEEDED:
        files = [os.path.join(kwargs.get("subfolder", ""), file) for file in needed]
        if not any(has_file(str(name_or_path), file, **access) for file in files):
            raise OSError(f"there is no {needed[0]}")
    found, _ = DemaskConfig.get_config_dict(str(name_or_path), **kwargs)
    if found.get("model_type", DemaskConfig.model_type) != DemaskConfig.model_type:
        raise ValueError(
            f"`head` must be a dependency head, got {str(name_or_path)!r}, whose config.json is that of a "
            f"{found['model_type']!r} model."
        )


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
