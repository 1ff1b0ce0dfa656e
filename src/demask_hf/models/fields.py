"""Fields of a native model's config: of the right types and of possible sizes, or refused in one sentence."""

import functools
import math
import reprlib
from collections.abc import Callable
from typing import Any

from huggingface_hub.errors import StrictDataclassError


# Far above every published model, and far below what fills a memory while an empty model is built.
_LARGEST = {
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "moe_intermediate_size": 1 << 20,
    "shared_expert_intermediate_size": 1 << 20,
    "num_experts": 1 << 14,
    "vocab_size": 1 << 24,
}
# What code of transformers raises where a field has a wrong type.
_BAD = (StrictDataclassError, AttributeError, KeyError, OverflowError, TypeError, ZeroDivisionError)


class FieldError(StrictDataclassError, ValueError):
    """A field of a config that cannot be used, in one sentence."""


def in_a_sentence(config_class: Any) -> Any:
    """Decorate a strict config: what its fields cannot be is said in one sentence, by a `ValueError`."""
    config_class.__setattr__ = _checked_assignment(config_class.__setattr__)
    config_class.__init__ = _checked_fields(config_class.__init__)
    return config_class


def check_sizes(config: Any) -> None:
    """Refuse sizes that no model has, before something of this size is built.

    Raises:
        ValueError: if a size is below 1, or so large that it must be a mistake or an attack.
    """
    for name, largest in _LARGEST.items():
        value = getattr(config, name, None)
        if value is not None and not 1 <= value <= largest:
            raise ValueError(f"`{name}` must be in [1, {largest}], got {value}.")


def _checked_assignment(assign: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(assign)
    def checked(config: Any, name: str, value: Any) -> None:
        try:
            assign(config, name, value)
        except FieldError:
            raise
        except StrictDataclassError as error:
            wanted = config.__dataclass_fields__[name].type
            wanted = getattr(wanted, "__name__", None) or str(wanted)
            raise FieldError(f"`{name}` must be of type {wanted}, got {reprlib.repr(value)}.") from error

    return checked


def _checked_fields(build: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(build)
    def checked(config: Any, *args: Any, **kwargs: Any) -> None:
        try:
            build(config, *args, **kwargs)
        except FieldError:
            raise
        except _BAD as error:
            cause = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
            if isinstance(cause, ValueError) and str(cause).startswith("`"):
                raise FieldError(str(cause)) from error
            reason = " ".join(f"{type(cause).__name__}: {cause}".split()).rstrip(".")
            raise FieldError(f"`{type(config).__name__}` must have fields that fit together, got {reason}.") from error
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
        if theta is not None and not (isinstance(theta, int | float) and 0 < theta < math.inf):
            raise FieldError(f"`rope_theta` must be a number in (0, inf), got {reprlib.repr(theta)}.")

    return checked
