"""What a comparison runs: a strategy with its limits and the other arguments of `generate`, read from text."""

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from ..generation.configuration import DemaskGenerationConfig, setting_names
from ..strategies import UnmaskingStrategy, make_strategy, strategy_fields
from ..strategies.sequential import one_at_a_time
from ..validation import nearest


# Settings of `generate` that a text cannot set, because evaluation sets them.
_SET_ELSEWHERE = ("strategy", "seed", "return_dict_in_generate", "num_return_sequences")


@dataclass(frozen=True)
class Setting:
    """One way to decode.

    Args:
        row (`str`):
            Name of its row in a table; settings that differ in their limits share a row.
        label (`str`):
            The text that this setting was read from.
        strategy (`dict[str, Any]`):
            Name and fields of the strategy; fields left out have their defaults.
        options (`dict[str, Any]`):
            Other arguments of `generate`.
    """

    row: str
    label: str
    strategy: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name for files: the strategy, as far as it is a word, and a checksum of everything."""
        text = json.dumps([self.strategy, self.options], sort_keys=True)
        # Anything can be the name of a strategy of one's own, also a path.
        word = re.sub(r"[^A-Za-z0-9_]", "_", self.strategy["name"])[:40]
        return f"{word}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def build(self) -> UnmaskingStrategy:
        """Return the strategy."""
        return make_strategy(**self.strategy)

    def decodes_like(self, other: "Setting") -> bool:
        """Return whether another setting decodes in the same way, however it was written."""
        if self == other or not (self.strategy and other.strategy):
            return self == other
        return self.options == other.options and self.build().to_dict() == other.build().to_dict()

    def reference(self) -> "Setting":
        """Return one token per forward pass with the same order of positions and the same draws."""
        options = {name: value for name, value in self.options.items() if name != "max_denoising_steps"}
        reference = one_at_a_time(self.build()).to_dict()
        if reference["name"] != "sequential":
            label = spec_of(reference)
            # Without defaults: a field that the strategy gets later does not make it another setting.
            return Setting(label, label, _without_defaults(reference), options)
        order = reference["order"]
        if order == "token_probability" and not options.get("temperature"):
            # The drawn token is the most likely one.
            order = "confidence"
        label = f"sequential:order={order}"
        return Setting(label, label, {"name": "sequential", "order": order}, options)


def parse_settings(text: str, shared: Mapping[str, Any] | None = None) -> list[Setting]:
    """Read `NAME` or `NAME:FIELD=VALUE,FIELD=VALUE`, where `VALUE/VALUE/...` lists the values of a grid.

    A field is one of the strategy, or a setting of [`DemaskGenerationConfig`] such as `block_length` or `block_cache`.

    Args:
        text (`str`):
            Such as "demask:dependency_bound=0.03/0.06/0.1,rule=total". The order of the values is kept: neighbours
            in it are neighbours in the grid. Slashes in quotes do not count: 'table:table="runs/pairs.json"'.
        shared (`Mapping[str, Any]`, *optional*):
            Arguments of `generate` for all settings; those in the text take precedence.

    Returns:
        `list[Setting]`: one for each combination of values.

    Raises:
        ValueError: if a name, field or value is wrong.

    Example:

    ```python
    >>> [setting.label for setting in parse_settings("threshold:confidence_threshold=0.9/0.7")]
    ['threshold:confidence_threshold=0.9', 'threshold:confidence_threshold=0.7']

    ```
    """
    name, _, listed = text.partition(":")
    known = strategy_fields(name)
    pairs = [_split(part) for part in fields_of_spec(listed)]
    for field_name, _ in pairs:
        _check_name(field_name, name, known)
    choices = [_choices(value) for _, value in pairs]
    row = _text(name, [pair for pair, values in zip(pairs, choices, strict=True) if len(values) == 1])
    settings = []
    for values in product(*choices):
        given = {key: _value(value) for (key, _), value in zip(pairs, values, strict=True)}
        fields = {key: value for key, value in given.items() if key in known}
        options = {**(shared or {}), **{key: value for key, value in given.items() if key not in known}}
        DemaskGenerationConfig(strategy={"name": name, **fields}, **options)
        label = _text(name, zip((key for key, _ in pairs), values, strict=True))
        settings.append(Setting(row, label, {"name": name, **fields}, options))
    return settings


def strategy_of(text: str) -> dict[str, Any]:
    """Read `NAME` or `NAME:FIELD=VALUE,FIELD=VALUE` as the name and the fields of one strategy.

    Raises:
        ValueError: if a field has no equals sign.
    """
    name, _, listed = text.partition(":")
    return {"name": name, **dict(map(field_of, fields_of_spec(listed)))}


def spec_of(strategy: dict[str, Any]) -> str:
    """Return the text that [`strategy_of`] reads as a strategy; fields at their defaults are left out."""
    fields = {name: value for name, value in _without_defaults(strategy).items() if name != "name"}
    # Slashes separate the values of a grid, except within quotes.
    texts = {name: isinstance(value, str) and "/" not in value for name, value in fields.items()}
    return _text(
        strategy["name"], ((name, value if texts[name] else json.dumps(value)) for name, value in fields.items())
    )


def _without_defaults(strategy: dict[str, Any]) -> dict[str, Any]:
    """Return the name and the fields of a strategy that are not at their defaults."""
    defaults = strategy_fields(strategy["name"])
    return {name: value for name, value in strategy.items() if name == "name" or value != defaults.get(name)}


def field_of(text: str) -> tuple[str, Any]:
    """Split `FIELD=VALUE`; the value is JSON, "inf", or else text.

    Raises:
        ValueError: if there is no equals sign.
    """
    name, value = _split(text)
    return name, _value(value)


def _check_name(field_name: str, strategy: str, known: Collection[str]) -> None:
    """Raise a `ValueError` unless a name is a field of the strategy or a setting of `generate`."""
    settings = [name for name in setting_names() if name not in _SET_ELSEWHERE]
    if field_name in _SET_ELSEWHERE and field_name not in known:
        raise ValueError(f"`{field_name}` must be left out of a setting, got one: evaluation sets it itself.")
    if field_name not in (*known, *settings):
        raise ValueError(
            f"`{field_name}` must be a field of strategy {strategy!r} or an argument of generate, got an unknown "
            f"name; {nearest(field_name, [*known, *settings])}."
        )


def _text(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    fields = ",".join(f"{key}={value}" for key, value in pairs)
    return f"{name}:{fields}" if fields else name


def fields_of_spec(listed: str) -> list[str]:
    """Split what follows the name of a strategy at commas, but not within the brackets of a JSON list or object."""
    return re.split(r",(?![^\[{]*[\]}])", listed) if listed else []


def _choices(value: str) -> list[str]:
    """Split at slashes, but not within quotes."""
    return re.split(r'/(?=(?:[^"]*"[^"]*")*[^"]*$)', value)


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"`FIELD=VALUE` must be the form of a field of a strategy, got {text!r}.")
    return name.strip(), value


def _value(text: str) -> Any:
    if text == "inf":
        return math.inf
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
