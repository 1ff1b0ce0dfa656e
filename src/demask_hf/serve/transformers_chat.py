"""What `transformers chat` asks of a server beyond OpenAI's interface: a word on loading, and its settings."""

import json
from typing import Any


_FIELD = "generation_config"
#: Settings that it may send, by our name for them; those of `demask` are fields of ours.
_NAMES = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}
_OURS = ("top_k", "repetition_penalty", "block_length", "max_denoising_steps", "eos_penalty")
_NEUTRAL = ("do_sample", "transformers_version")
#: The stream that answers `POST /load_model`, which says that the model is there.
LOADED = f"data: {json.dumps({'status': 'ready', 'cached': True})}\n\n"


def in_our_words(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request with the settings that `transformers chat` sends as fields of ours.

    Without a temperature, `do_sample` means temperature 1, as in transformers, and its absence temperature 0.

    Args:
        body (`dict[str, Any]`):
            The JSON object of a request; left as it is where it has no `generation_config`.

    Raises:
        ValueError: if the settings are no JSON object, or hold one that is not supported.

    Example:

    ```python
    >>> in_our_words({"model": "m", "generation_config": '{"do_sample": true, "max_new_tokens": 64, "top_k": 5}'})
    {'model': 'm', 'demask': {'top_k': 5}, 'max_tokens': 64, 'temperature': 1.0}

    ```
    """
    if _FIELD not in body:
        return body
    settings = _read(body[_FIELD])
    known = (*_NAMES, *_OURS, *_NEUTRAL)
    for name in settings:
        if name not in known:
            raise ValueError(f"`{_FIELD}` must hold settings among {', '.join(known)}, got {name[:80]!r}.")
    is_sampled = settings.get("do_sample") is True
    asked: dict[str, Any] = {_NAMES[name]: value for name, value in settings.items() if name in _NAMES}
    asked["temperature"] = asked.get("temperature", 1.0) if is_sampled else 0.0
    ours = {name: settings[name] for name in _OURS if name in settings}
    rest = {name: value for name, value in body.items() if name != _FIELD}
    return {**rest, **({"demask": ours} if ours else {}), **asked}


def _read(text: Any) -> dict[str, Any]:
    """Return the settings; those that are not set are left out."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"`{_FIELD}` must be a text that holds a JSON object, got something else.")
    return {name: value for name, value in found.items() if value is not None}
