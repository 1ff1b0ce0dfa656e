"""Checks of settings of `generate` that take more than an interval; each raises a `ValueError`."""

from collections.abc import Sequence
from typing import Any

from ..validation import check_interval


# Modes and arguments of `torch.compile`.
_COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_COMPILE_OPTIONS = ("backend", "dynamic", "fullgraph", "mode", "options")


def check_sampling(do_sample: bool | None, temperature: float | None) -> None:
    """Raise a `ValueError` if samples are asked for at temperature 0."""
    if do_sample and temperature == 0:
        raise ValueError("`temperature` must be above 0 with `do_sample=True`, got 0.")


def check_processing(
    repetition_penalty: float | None, bad_words_ids: list[list[int]] | None, suppress_tokens: list[int] | None
) -> None:
    """Raise a `ValueError` unless the settings can be applied at any position."""
    if repetition_penalty is not None:
        check_interval("repetition_penalty", repetition_penalty, 0, open_low=True)
    if suppress_tokens is not None and not _are_tokens(suppress_tokens):
        raise ValueError(f"`suppress_tokens` must be a list of token ids, got {suppress_tokens!r}.")
    if bad_words_ids is None:
        return
    if not isinstance(bad_words_ids, list | tuple) or not all(map(_are_tokens, bad_words_ids)):
        raise ValueError(f"`bad_words_ids` must be a list of lists of token ids, got {bad_words_ids!r}.")
    longer = [list(word) for word in bad_words_ids if len(word) != 1]
    if longer:
        raise ValueError(
            f"`bad_words_ids` must hold words of one token, got {longer[0]}: in any order the tokens before one are "
            "not always known."
        )


def check_stop_strings(stop_strings: Any) -> None:
    """Raise a `ValueError` unless `stop_strings` is a text or a list of texts, none of them empty."""
    strings = [stop_strings] if isinstance(stop_strings, str) else stop_strings
    if strings is not None and not (strings and all(isinstance(each, str) and each for each in strings)):
        raise ValueError(f"`stop_strings` must be a text or a list of texts, got {stop_strings!r}.")


def check_compile(compile: bool | str | dict[str, Any] | None) -> None:
    """Raise a `ValueError` unless `compile` is a boolean, a mode, or arguments of `torch.compile`."""
    if isinstance(compile, dict):
        unknown = sorted(set(compile) - set(_COMPILE_OPTIONS))
        if unknown:
            raise ValueError(f"`compile` must hold {', '.join(_COMPILE_OPTIONS)} only, got {', '.join(unknown)}.")
    elif compile is not None and not isinstance(compile, bool) and compile not in _COMPILE_MODES:
        raise ValueError(
            f"`compile` must be a boolean, a dict or one of {', '.join(_COMPILE_MODES)}, got {compile!r}."
        )


def _are_tokens(tokens: Sequence[int]) -> bool:
    is_list = isinstance(tokens, list | tuple) and len(tokens) > 0
    return is_list and all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in tokens)
