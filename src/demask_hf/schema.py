"""Read dataclasses from JSON and check every field: records that were damaged or edited are refused."""

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar


_Dataclass = TypeVar("_Dataclass")


def from_json(kind: type[_Dataclass], value: Any) -> _Dataclass:
    """Return a dataclass from the JSON form of `dataclasses.asdict`.

    Args:
        kind (`type`):
            The dataclass; its fields are numbers, texts, truth values, dataclasses, tuples of one type, or `None`.
        value (`Any`):
            What was read.

    Raises:
        ValueError: if fields are missing, unknown or of another type, or a number is not finite; the message continues
            a sentence after the name of the record.
    """
    return _read(kind, value, "")


def _read(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _read_fields(hint, value, name)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (each for each in arguments if each is not type(None))
        return _read(hint, value, name)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"must have a list as `{name}`, got {value!r}.")
        return tuple(_read(arguments[0], each, name) for each in value)
    allowed = (int, float) if hint is float else hint
    # In Python, a truth value is an integer.
    if not isinstance(value, allowed) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"must have {_WORDS[hint]} as `{name}`, got {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"must have a finite number as `{name}`, got {value!r}.")
    return value


def _read_fields(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"must {f'have as `{name}`' if name else 'be'} a JSON object, got {value!r}.")
    hints = typing.get_type_hints(kind)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    for problem, names in (
        ("without", fields.keys() - value.keys()),
        ("with the unknown", value.keys() - fields.keys()),
    ):
        if names:
            raise ValueError(f"must have the fields of {kind.__name__}, got one {problem} {', '.join(sorted(names))}.")
    return kind(**{key: _read(hint, value[key], key) for key, hint in fields.items()})


_WORDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
