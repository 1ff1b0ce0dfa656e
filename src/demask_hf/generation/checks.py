"""Checks of settings of `generate` that take more than an interval; each raises a `ValueError`."""

from typing import Any


# Modes and arguments of `torch.compile`.
_COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_COMPILE_OPTIONS: dict[str, Any] = {
    "backend": str,
    "dynamic": bool | None,
    "fullgraph": bool,
    "mode": str | None,
    "options": dict | None,
}


def check_sampling(do_sample: bool | None, temperature: float | None) -> None:
    """Raise a `ValueError` if samples are asked for at temperature 0."""
    if do_sample and temperature == 0:
        raise ValueError("`temperature` must be above 0 with `do_sample=True`, got 0.")


def check_tokens(name: str, tokens: Any) -> None:
    """Raise a `ValueError` unless `tokens` is a list of token ids with at least one."""
    if not _are_tokens(tokens):
        raise ValueError(f"`{name}` must be a list of token ids, got {tokens!r}.")


def check_words(name: str, words: Any) -> None:
    """Raise a `ValueError` unless `words` is a list of words of one token each."""
    if not isinstance(words, list | tuple) or not all(map(_are_tokens, words)):
        raise ValueError(f"`{name}` must be a list of lists of token ids, got {words!r}.")
    longer = [list(word) for word in words if len(word) != 1]
    if longer:
        raise ValueError(
            f"`{name}` must hold words of one token, got {longer[0]}: in any order the tokens before one are not "
            "always known."
        )


def check_texts(name: str, texts: Any) -> None:
    """Raise a `ValueError` unless `texts` is a text or a list of texts, none of them empty."""
    texts = [texts] if isinstance(texts, str) else texts
    if not (isinstance(texts, list | tuple) and texts and all(isinstance(each, str) and each for each in texts)):
        raise ValueError(f"`{name}` must be a text or a list of texts, got {texts!r}.")


def check_compile(name: str, compile: Any) -> None:
    """Raise a `ValueError` unless `compile` is a boolean, a mode, or arguments of `torch.compile`."""
    if isinstance(compile, dict):
        unknown = sorted(map(str, set(compile) - set(_COMPILE_OPTIONS)))
        if unknown:
            raise ValueError(f"`{name}` must hold {', '.join(_COMPILE_OPTIONS)} only, got {', '.join(unknown)}.")
        for option, value in compile.items():
            if not (isinstance(value, _COMPILE_OPTIONS[option]) or (option == "backend" and callable(value))):
                raise ValueError(f"`{name}` must hold a {option} as torch.compile takes it, got {value!r}.")
    elif not isinstance(compile, bool) and compile not in _COMPILE_MODES:
        raise ValueError(f"`{name}` must be a boolean, a dict or one of {', '.join(_COMPILE_MODES)}, got {compile!r}.")


def check_special_token(name: str, value: Any) -> None:
    """Raise a `ValueError` unless `value` is a token id; the end of sequence and the padding may be lists of ids.

    Some checkpoints have several padding tokens, of which the first is used.
    """
    several = name in ("eos_token_id", "pad_token_id")
    if not _are_tokens([value]) and not (several and _are_tokens(value)):
        raise ValueError(f"`{name}` must be a token id{' or a list of token ids' if several else ''}, got {value!r}.")


def _are_tokens(tokens: Any) -> bool:
    """Return whether a value is a list of token ids with at least one."""
    is_list = isinstance(tokens, list | tuple) and len(tokens) > 0
    return is_list and all(type(token) is int and 0 <= token < 1 << 63 for token in tokens)
