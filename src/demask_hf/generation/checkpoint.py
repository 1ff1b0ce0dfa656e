"""What a checkpoint's `generation_config.json` says, read so that a model loads whatever stands there."""

from typing import Any

from transformers.utils import logging

from ..strategies import strategy_fields, strategy_names
from .configuration import DemaskGenerationConfig


logger = logging.get_logger(__name__)

_BAD = (AttributeError, KeyError, TypeError, ValueError)


def load_settings(location: Any, **kwargs: Any) -> DemaskGenerationConfig | None:
    """Read the settings of a checkpoint; what cannot be used is left out, with one warning.

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
        logger.warning(f"The generation_config.json of {location} cannot be read, defaults are used: {error}")
        return DemaskGenerationConfig()
    except OSError as error:
        if "valid JSON" not in str(error):
            return None
        logger.warning(f"The generation_config.json of {location} is not valid JSON, defaults are used.")
        return DemaskGenerationConfig()
    return found


class _Lenient(DemaskGenerationConfig):
    """Builds the config from those of its settings that can be used."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        try:
            return DemaskGenerationConfig.from_dict(config_dict, **kwargs)
        except _BAD as error:
            reason = error
        fields = {field for name in strategy_names() for field in strategy_fields(name)}
        # Fields of a strategy stand or fall with it.
        of_strategy = {"strategy", "alg", "steps", *fields} & config_dict.keys()
        groups = [of_strategy, *({name} for name in config_dict if name not in of_strategy)]
        kept: dict[str, Any] = {}
        for group in groups:
            candidate = {**kept, **{name: config_dict[name] for name in group}}
            try:
                DemaskGenerationConfig.from_dict(candidate)
            except _BAD:
                continue
            kept = candidate
        left_out = ", ".join(sorted(config_dict.keys() - kept.keys()))
        logger.warning(f"These settings of generation_config.json are left out: {left_out}. {reason}")
        return DemaskGenerationConfig.from_dict(kept, **kwargs)
