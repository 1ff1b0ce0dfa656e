"""What a request may ask for: the fields of OpenAI's interface that are supported, and ours under `demask`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..generation.configuration import setting_names
from ..strategies import strategy_fields, strategy_names
from ..validation import check_choice, check_count, check_flag, check_interval, nearest
from .answers import Wanted
from .errors import RequestError, one_line, short
from .formats import num_likely_of, schema_of
from .transformers_chat import in_our_words


# Settings of `generate` that a request may change under `demask`; the others belong to the server.
SETTINGS = (
    *("block_length", "max_denoising_steps", "top_k", "scores", "eos_penalty", "stop_at_eos", "repetition_penalty"),
    *("block_cache", "cache_refresh_interval", "cache_commits_first", "batch_invariant"),
)
# What the steps of a stream show, if they are asked to.
SHOWN = ("drafts", "trace")
ROLES = ("system", "user", "assistant", "tool", "developer")
_MAX_STOPS, _MAX_STOP_LENGTH = 16, 256
# Fields of OpenAI's interface that are accepted where they ask for nothing, with these values or null.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("frequency_penalty", "presence_penalty"), (0,)),
    **dict.fromkeys(("echo", "store", "parallel_tool_calls"), (False,)),
    **dict.fromkeys(("logit_bias", "metadata"), ({},)),
    **dict.fromkeys(("tools", "functions"), ([],)),
    "suffix": ("",),
    "best_of": (1,),
    "tool_choice": ("none",),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}
_SHARED = (
    *("model", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "stream", "stream_options"),
    *("user", "demask", "logprobs", "response_format", *_NEUTRAL),
)


@dataclass(frozen=True)
class CompletionRequest:
    """A request whose fields have been checked, apart from what depends on the model.

    Args:
        prompts (`list`): Texts, lists of token ids, or one list of messages.
        settings (`dict[str, Any]`): Arguments of `generate`, without the seed.
        strategy (`dict[str, Any]`, *optional*): Fields of a strategy, and its `name` if it is named.
        num_answers (`int`): Answers for each prompt.
        seed (`int`, *optional*): Seed; answer `k` gets `seed + k`.
        wanted ([`Wanted`]): What rows are to do besides decoding.
        is_streamed (`bool`): Whether to send text as it is finished.
        with_usage (`bool`): Whether a stream ends with the usage.
    """

    prompts: list[Any]
    settings: dict[str, Any]
    strategy: dict[str, Any] | None = None
    num_answers: int = 1
    seed: int | None = None
    wanted: Wanted = Wanted()
    is_streamed: bool = False
    with_usage: bool = False


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds.

    Raises:
        RequestError: if it is something else.
    """

    def refuse(constant: str) -> None:
        raise RequestError(f"`body` must hold finite numbers, got {constant}.")

    try:
        found = json.loads(body.decode("utf-8"), parse_constant=refuse)
        # A lone surrogate is no text that a tokenizer could read.
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise RequestError(f"`body` must be a JSON object, got something else: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise RequestError(f"`body` must be a JSON object, got {short(found)}.")
    return found


def read_request(body: dict[str, Any], is_chat: bool, model: str) -> CompletionRequest:
    """Return the request that a body makes.

    Args:
        body (`dict[str, Any]`):
            The JSON object.
        is_chat (`bool`):
            Whether it is one for a chat completion.
        model (`str`):
            Name of the model that is served.

    Raises:
        RequestError: if a field is unknown, missing or wrong, or asks for what is not supported.
    """
    try:
        return _read(in_our_words(body), is_chat, model)
    except ValueError as error:
        raise RequestError(one_line(error)) from None


def _read(body: dict[str, Any], is_chat: bool, model: str) -> CompletionRequest:
    own = ("messages", "max_completion_tokens", "top_logprobs") if is_chat else ("prompt",)
    known = (*_SHARED, *own)
    for name in body:
        if name not in known:
            raise ValueError(f"`{name[:80]}` must be a known field, got an unknown one; {nearest(name[:80], known)}.")
    given = {name: value for name, value in body.items() if value is not None}
    if given.get("model", model) != model:
        raise RequestError(
            f"`model` must be {model!r}, the one that is served, got {short(given['model'])}.", 404, "model_not_found"
        )
    _check_unsupported(given)
    settings = _settings(given)
    strategy, own_settings, shown = _extension(given.get("demask", {}))
    num_answers = given.get("n", 1)
    check_count("n", num_answers)
    is_streamed = given.get("stream", False)
    check_flag("stream", is_streamed)
    for name, is_shown in shown.items():
        if is_shown and not is_streamed:
            raise ValueError(f"`demask.{name}` must be False without `stream`, got True.")
    seed = given.get("seed")
    if seed is not None and not (_is_integer(seed) and -(1 << 62) <= seed < 1 << 62):
        raise ValueError(f"`seed` must be an integer in [-2^62, 2^62), got {short(seed)}.")
    if "user" in given and not isinstance(given["user"], str):
        raise ValueError(f"`user` must be a text, got {short(given['user'])}.")
    stops, schema = _stops(given.get("stop", [])), schema_of(given.get("response_format", {"type": "text"}))
    if schema is not None:
        if stops:
            raise ValueError("`stop` must be left out with `response_format`, whose answers must be whole, got some.")
        settings["constraint"] = {"json_schema": schema}
    return CompletionRequest(
        prompts=[_messages(given.get("messages"))] if is_chat else _prompts(given.get("prompt")),
        settings={**settings, **own_settings},
        strategy=strategy or None,
        num_answers=num_answers,
        seed=seed,
        wanted=Wanted(tuple(stops), **shown, num_likely=num_likely_of(given, is_chat)),
        is_streamed=is_streamed,
        with_usage=_with_usage(given, is_streamed),
    )


def _check_unsupported(given: dict[str, Any]) -> None:
    for name, values in _NEUTRAL.items():
        if name in given and given[name] not in values:
            raise ValueError(
                f"`{name}` must be left out or {values[0]!r}, as this server does not support it, got "
                f"{short(given[name])}."
            )


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of `generate` under OpenAI's names."""
    settings: dict[str, Any] = {}
    names: list[str] = [name for name in ("max_tokens", "max_completion_tokens") if name in given]
    for name in names:
        check_count(name, given[name])
        settings["max_new_tokens"] = given[name]
    if len(names) == 2 and given[names[0]] != given[names[1]]:
        raise ValueError(
            f"`max_completion_tokens` must be `max_tokens`, which it replaces, got {given[names[1]]} and "
            f"{given[names[0]]}."
        )
    checks: dict[str, Callable[[Any], None]] = {
        "temperature": lambda value: check_interval("temperature", value, 0),
        "top_p": lambda value: check_interval("top_p", value, 0, 1, open_low=True),
    }
    for field_name, check in checks.items():
        if field_name in given:
            check(given[field_name])
            settings[field_name] = given[field_name]
    return settings


def _extension(given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, bool]]:
    """Return fields of the strategy, settings of `generate`, and what steps are to show."""
    if not isinstance(given, dict):
        raise ValueError(f"`demask` must be an object, got {short(given)}.")
    given = {name: value for name, value in given.items() if value is not None}
    shown = {name: given.pop(name, False) for name in SHOWN}
    for name, is_shown in shown.items():
        check_flag(f"demask.{name}", is_shown)
    settings = {name: given.pop(name) for name in SETTINGS if name in given}
    strategy: dict[str, Any] = {}
    if "strategy" in given:
        name = given.pop("strategy")
        if not isinstance(name, str):
            raise ValueError(f"`demask.strategy` must be a name, got {short(name)}.")
        check_choice("demask.strategy", name, strategy_names())
        strategy["name"] = name
    if _names_file({**strategy, **given}):
        raise ValueError("`demask` must not name a file of the server, got the strategy 'table' or its field.")
    names = [strategy["name"]] if strategy else strategy_names()
    fields = {each for name in names for each in strategy_fields(name)}
    for name in given:
        if name in setting_names():
            raise ValueError(f"`demask.{name}` must not be set by a request, got {short(given[name])}.")
        if name not in fields:
            known = {*fields, *SETTINGS, *SHOWN, "strategy"}
            raise ValueError(
                f"`demask.{name[:80]}` must be a known field, got an unknown one; {nearest(name[:80], known)}."
            )
    return {**strategy, **given}, settings, shown


def _names_file(value: Any) -> bool:
    """Whether a field, also of a strategy within another, makes the server read a file."""
    if isinstance(value, dict):
        return "table" in value or any(map(_names_file, value.values()))
    return value == "table"


def _messages(given: Any) -> list[dict[str, str]]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"`messages` must be a list of at least one message, got {short(given)}.")
    messages = []
    for number, message in enumerate(given):
        name = f"messages[{number}]"
        if not isinstance(message, dict):
            raise ValueError(f"`{name}` must be an object with role and content, got {short(message)}.")
        unknown = {key for key, value in message.items() if value is not None} - {"role", "content"}
        if unknown:
            raise ValueError(f"`{name}` must hold role and content only, got {short(sorted(unknown)[0])}.")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"`{name}.role` must be one of {', '.join(ROLES)}, got {short(role)}.")
        messages.append({"role": role, "content": _content(f"{name}.content", content)})
    return messages


def _content(name: str, given: Any) -> str:
    """Return the text of a message, which may come in parts."""
    if isinstance(given, str):
        return given
    if isinstance(given, list) and given:
        parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in given]
        if all(isinstance(part, str) for part in parts):
            return "".join(map(str, parts))
    raise ValueError(f"`{name}` must be a text, or a list of parts of type text, got {short(given)}.")


def _prompts(given: Any) -> list[str | list[int]]:
    """Return the prompts of a completion: one or several, each a text or token ids."""
    is_one = isinstance(given, str) or (isinstance(given, list) and bool(given) and all(map(_is_integer, given)))
    prompts = [given] if is_one else given
    if not isinstance(prompts, list) or not prompts:
        raise ValueError(f"`prompt` must be a text, a list of token ids, or a list of those, got {short(given)}.")
    for prompt in prompts:
        is_ids = isinstance(prompt, list) and bool(prompt) and all(map(_is_integer, prompt))
        if not isinstance(prompt, str) and not is_ids:
            raise ValueError(f"`prompt` must hold texts or lists of token ids, got {short(prompt)}.")
        if is_ids and not all(-(1 << 63) <= token < 1 << 63 for token in prompt):
            raise ValueError("`prompt` must hold token ids of at most 64 bits, got a larger number.")
    return prompts


def _stops(given: Any) -> list[str]:
    stops = [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS:
        raise ValueError(f"`stop` must be a text or at most {_MAX_STOPS} texts, got {short(given)}.")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= _MAX_STOP_LENGTH:
            raise ValueError(f"`stop` must hold texts of 1 to {_MAX_STOP_LENGTH} characters, got {short(stop)}.")
    return stops


def _with_usage(given: dict[str, Any], is_streamed: bool) -> bool:
    options = given.get("stream_options", {})
    if not isinstance(options, dict) or not options.keys() <= {"include_usage", "include_obfuscation"}:
        raise ValueError(f"`stream_options` must be an object with `include_usage` only, got {short(options)}.")
    if options.get("include_obfuscation"):
        raise ValueError("`stream_options` must not ask for `include_obfuscation`, which is not supported, got True.")
    if options and not is_streamed:
        raise ValueError("`stream_options` must be left out without `stream`, got some.")
    with_usage = options.get("include_usage", False)
    check_flag("stream_options.include_usage", with_usage)
    return bool(with_usage)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
