"""What a checkpoint's `generation_config.json` says, read so that a model loads whatever stands there."""

import os
from typing import Any

from transformers.utils import logging

from ..strategies import strategy_fields, strategy_names
from .configuration import DemaskGenerationConfig, known_names
from .foreign import without_foreign


logger = logging.get_logger(__name__)

_FILE = "generation_config.json"
_BAD = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
_TOKENS = ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
_SWITCHES = (
    *("stop_at_eos", "do_sample", "cache_commits_first", "batch_invariant"),
    *("return_dict_in_generate", "output_history"),
)


def load_settings(location: Any, **kwargs: Any) -> DemaskGenerationConfig | None:
    """Read the settings of a checkpoint; what cannot be used is left out, with one warning.

    The config remembers what was left out, and says so when it is saved: the file may be replaced by what is left.

    Args:
        location (`str` or `os.PathLike`):
            Folder or Hub repository.
        kwargs:
            Arguments of `GenerationConfig.from_pretrained`, such as `revision`.

    Returns:
        [`DemaskGenerationConfig`]: the settings, or `None` if the checkpoint has no such file.
    """
    try:
        found: Any = _Lenient.from_pretrained(location, **kwargs)
    except _BAD as error:
        return _without_settings(location, f"cannot be read ({next(iter(str(error).splitlines()), '')})")
    except OSError as error:
        if "valid JSON" in str(error):
            return _without_settings(location, "is not valid JSON")
        # Where transformers finds no file, there may be something else of this name.
        file = os.path.join(location, kwargs.get("subfolder") or "", _FILE)
        if os.path.lexists(file):
            return _without_settings(location, "is no file that can be read")
        return None
    if found._left_out is not None:
        found._left_out = f"of the {_FILE} of {location}: {found._left_out}"
    return found


def _without_settings(location: Any, reason: str) -> DemaskGenerationConfig:
    """Return the defaults, after a warning."""
    logger.warning(
        f"The {_FILE} of {location} {reason}: nothing of it is used, neither settings nor special tokens, and "
        "defaults take their place."
    )
    config = DemaskGenerationConfig()
    config._left_out = f"of the {_FILE} of {location}: everything"
    return config


class _Lenient(DemaskGenerationConfig):
    """Builds the config from those of its settings that can be used."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        asking, unknown = _unused(config_dict)
        config_dict = {name: value for name, value in config_dict.items() if name not in unknown}
        kept, reason = _usable(config_dict)
        left_out = sorted({*unknown, *(config_dict.keys() - kept.keys())})
        if left_out:
            reason = reason or "Nothing here has these names."
            logger.warning(f"These settings of {_FILE} are left out: {', '.join(left_out)}. {reason}")
        config: Any = DemaskGenerationConfig.from_dict(kept, **kwargs)
        # Options of other decoders apply elsewhere, and would be missed there.
        config._left_out = ", ".join(sorted({*left_out, *asking})) or None
        return config


def _usable(config_dict: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the settings that can be used together, and why the first of the others cannot."""
    try:
        _build(config_dict)
        return config_dict, None
    except _BAD as error:
        reason = str(error)
    fields = {field for name in strategy_names() for field in strategy_fields(name)}
    # Fields of a strategy stand or fall with it.
    of_strategy = {"strategy", "alg", "steps", *fields} & config_dict.keys()
    groups = [of_strategy, *({name} for name in config_dict if name not in of_strategy)]
    kept: dict[str, Any] = {}
    for group in groups:
        candidate = {**kept, **{name: config_dict[name] for name in group}}
        try:
            _build(candidate)
        except _BAD:
            continue
        kept = candidate
    return kept, reason


def _build(settings: dict[str, Any]) -> None:
    """Raise an error if a config cannot be made of these settings, or `generate` would break on one of them."""
    config = DemaskGenerationConfig.from_dict(settings)
    for name in _TOKENS:
        value = getattr(config, name)
        tokens = value if isinstance(value, list) and name != "mask_token_id" else [value]
        if value is not None and any(type(token) is not int or token < 0 for token in tokens):
            raise ValueError(f"`{name}` must be the id of a token, got {value!r}.")
    for name in _SWITCHES:
        if getattr(config, name) not in (None, True, False):
            raise ValueError(f"`{name}` must be True or False, got {getattr(config, name)!r}.")


def _unused(config_dict: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the options of other decoders that ask for something, and the names that nobody knows."""
    asking, unknown = [], []
    known = {*known_names(), "transformers_version"}
    for name, value in config_dict.items():
        if name in known or name.startswith("_") or value is None:
            continue
        try:
            if without_foreign({name: value}, ()):
                unknown.append(name)
        except ValueError:
            asking.append(name)
    return asking, unknown
