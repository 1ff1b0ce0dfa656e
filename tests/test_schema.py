"""Dataclasses from JSON: what was written comes back, anything else is named."""

import json
from dataclasses import asdict, dataclass

import pytest

from demask_hf.schema import from_json


@dataclass(frozen=True)
class Inner:
    value: float


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    is_right: bool
    parts: tuple[Inner, ...]
    best: Inner | None
    costs: tuple[float, ...] | None = None


@pytest.mark.parametrize(
    "value", [Outer("a", 1, True, (Inner(0.5), Inner(1.0)), None, (0.1,)), Outer("", -2, False, (), Inner(3.0))]
)
def test_what_was_written_comes_back(value):
    assert from_json(Outer, json.loads(json.dumps(asdict(value)))) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "must have a text as `name`, got 1"),
        ({"count": 1.0}, "must have an integer as `count`, got 1.0"),
        ({"count": True}, "must have an integer as `count`, got True"),
        ({"is_right": 1}, "must have true or false as `is_right`, got 1"),
        ({"parts": {}}, "must have a list as `parts`, got {}"),
        ({"parts": [1]}, "must have as `parts` a JSON object, got 1"),
        ({"parts": [{"value": "1"}]}, "must have a number as `value`, got '1'"),
        ({"parts": [{}]}, "must have the fields of Inner, got one without value"),
        ({"best": {"value": float("inf")}}, "must have a finite number as `value`, got inf"),
        ({"costs": [None]}, "must have a number as `costs`, got None"),
        ({"more": 1}, "must have the fields of Outer, got one with the unknown more"),
    ],
)
def test_everything_else_is_named(change, message):
    good = {"name": "a", "count": 1, "is_right": True, "parts": [], "best": None, "costs": None}
    with pytest.raises(ValueError, match=message):
        from_json(Outer, {**good, **change})
