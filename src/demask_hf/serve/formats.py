"""The fields `logprobs` and `response_format` of a request."""

import json
from typing import Any

from ..validation import check_flag
from .errors import short


# As in OpenAI's interface.
_MAX_LIKELY = {True: 20, False: 5}
# Longest schema, in characters.
MAX_SCHEMA = 16384


def num_likely_of(given: dict[str, Any], is_chat: bool) -> int | None:
    """Return how many likely tokens a request asks for besides each token, or `None` if it asks for no chances.

    Args:
        given (`dict[str, Any]`):
            Its fields.
        is_chat (`bool`):
            Whether it is one for a chat completion, where `logprobs` is a truth value and `top_logprobs` the number.

    Raises:
        ValueError: if one of them is wrong.
    """
    if not is_chat:
        return _count("logprobs", given.get("logprobs"), _MAX_LIKELY[is_chat])
    check_flag("logprobs", given.get("logprobs", False))
    number = _count("top_logprobs", given.get("top_logprobs", 0), _MAX_LIKELY[is_chat])
    if not given.get("logprobs", False):
        if number:
            raise ValueError(f"`top_logprobs` must be 0 without `logprobs`, got {number}.")
        return None
    return number


def schema_of(given: Any) -> dict[str, Any] | None:
    """Return the JSON schema that answers must match, or `None` if they are free.

    Args:
        given (`Any`):
            What a request has as `response_format`.

    Raises:
        ValueError: if it is something else than a text or a schema.
    """
    if given == {"type": "text"}:
        return None
    if not isinstance(given, dict) or given.get("type") != "json_schema":
        hint = ""
        if isinstance(given, dict) and given.get("type") == "json_object":
            hint = ": JSON of any form takes an automaton that is too large"
        raise ValueError(f"`response_format` must be of type text or json_schema, got {short(given)}{hint}.")
    named = given.get("json_schema")
    if given.keys() != {"type", "json_schema"} or not isinstance(named, dict):
        raise ValueError("`response_format` must hold `type` and `json_schema`, an object, and nothing else.")
    unknown = named.keys() - {"name", "description", "schema", "strict"}
    if unknown:
        raise ValueError(
            "`response_format.json_schema` must hold name, description, schema and strict only, got "
            f"{short(sorted(unknown)[0])}."
        )
    schema = named.get("schema")
    if not isinstance(schema, dict):
        raise ValueError(f"`response_format.json_schema.schema` must be an object, got {short(schema)}.")
    length = len(json.dumps(schema))
    if length > MAX_SCHEMA:
        raise ValueError(
            f"`response_format.json_schema.schema` must be at most {MAX_SCHEMA} characters long, got {length}."
        )
    return schema


def _count(name: str, value: Any, most: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"`{name}` must be an integer in [0, {most}], got {short(value)}.")
    return value
