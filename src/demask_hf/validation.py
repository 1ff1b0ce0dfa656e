"""Checks of values; each error names the argument, the rule and the value."""

import difflib
from collections.abc import Collection
from typing import Any


# A list of more words is not read.
_MAX_LISTED = 24


def check_interval(
    field: str,
    value: Any,
    low: float,
    high: float = float("inf"),
    open_low: bool = False,
    open_high: bool = False,
    infinite: bool = False,
) -> None:
    """Raise a `ValueError` unless `value` is a number in [low, high]; open ends are excluded.

    Infinity is excluded, too, unless `infinite` allows it.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_above = is_number and (low < value if open_low else low <= value)
    open_high = open_high or (high == float("inf") and not infinite)
    if not (is_above and (value < high if open_high else value <= high)):
        ends = "(" if open_low else "[", ")" if open_high else "]"
        interval = f"{ends[0]}{low}, {high}{ends[1]}"
        raise ValueError(f"`{field}` must be a number in {interval}, got {value!r}.")


def check_count(field: str, value: Any, lowest: int = 1) -> None:
    """Raise a `ValueError` unless `value` is an integer of at least `lowest` that has 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"`{field}` must be an integer of at least {lowest}, got {value!r}.")
    if value >= 1 << 63:
        raise ValueError(f"`{field}` must be below 2^63, got {value}.")


def check_flag(field: str, value: Any) -> None:
    """Raise a `ValueError` unless `value` is `True` or `False`."""
    if not isinstance(value, bool):
        raise ValueError(f"`{field}` must be True or False, got {value!r}.")


def check_choice(field: str, value: Any, choices: Collection[str]) -> None:
    """Raise a `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{field}` must be one of {', '.join(choices)}, got {value!r}.")


def nearest(word: str, known: Collection[str]) -> str:
    """Return a clause that names the known words closest to a misspelt one, or else some of them; empty if none."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    if close:
        return f"nearest: {', '.join(close)}"
    listed, rest = sorted(known)[:_MAX_LISTED], len(known) - _MAX_LISTED
    return f"known: {', '.join(listed)}{f' and {rest} more' if rest > 0 else ''}" if known else ""
