"""Limits of the numbers on a command line, by the name of their option; checked before a command begins."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from ..validation import check_count, check_interval


_share = partial(check_interval, low=0, high=1, open_low=True, open_high=True)
_positive = partial(check_interval, low=0, open_low=True)


def _check_integer(name: str, value: Any) -> None:
    """Raise a `ValueError` unless `value` is an integer of 64 bits."""
    if not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"`{name}` must be an integer of 64 bits, got {value!r}.")


#: Other numbers are counts of at least 1, or numbers of at least 0.
_CHECKS: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(("seed", "prompt_seed"), _check_integer),
    **dict.fromkeys(("max_new_tokens", "top_k", "num_validation"), partial(check_count, lowest=0)),
    **dict.fromkeys(("num_orders", "mixing_layers"), partial(check_count, lowest=0)),
    **dict.fromkeys(("epsilon", "delta", "confidence", "eval_share"), _share),
    **dict.fromkeys(("learning_rate", "alpha"), _positive),
    **dict.fromkeys(("min_probability", "dropout"), partial(check_interval, low=0, high=1, open_high=True)),
    "trajectory_ratio": partial(check_interval, low=0, high=1),
    "top_p": partial(check_interval, low=0, high=1, open_low=True),
    "eos_penalty": partial(check_interval, low=0, infinite=True),
}
#: More prompts of a family than anyone waits for; generating them would take the memory first.
_MAX_PROMPTS = 1_000_000


def check_options(options: Any) -> None:
    """Raise a `ValueError` if a number of an instance of a dataclass of options is outside its limits."""
    for field in dataclasses.fields(options):
        value, kind = getattr(options, field.name), str(field.type)
        name = f"--{field.name.replace('_', '-')}"
        if value is None or ("int" not in kind and "float" not in kind):
            continue
        check = _CHECKS.get(field.name, check_count if "int" in kind else partial(check_interval, low=0))
        for each in value if isinstance(value, list) and value else [value]:
            check(name, each)
        if field.name in ("num_prompts", "num_validation") and value > _MAX_PROMPTS:
            raise ValueError(f"`{name}` must be at most {_MAX_PROMPTS:,}, got {value}.")
