"""The option `constraint`: from a regular expression, JSON schema or grammar to an automaton over the tokens."""

import json
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedTokenizerBase

from ..functional.automaton import TokenAutomaton
from ..functional.restriction import completion_weights
from .grammar import expression_of_grammar


KINDS = ("regex", "json_schema", "grammar")
# The last code point, which no text has.
_LAST = chr(0x10FFFF)
# Automata of the last constraints of each tokenizer: to compile one for a large vocabulary takes seconds.
_MAX_KEPT = 16
_KEPT: WeakKeyDictionary[Any, dict[Any, TokenAutomaton]] = WeakKeyDictionary()


def check_constraint(name: str, constraint: Any) -> None:
    """Raise a `ValueError` unless `constraint` is a regular expression, or holds one, a JSON schema or a grammar."""
    if isinstance(constraint, str):
        return
    if not isinstance(constraint, dict) or len(constraint) != 1 or next(iter(constraint)) not in KINDS:
        raise ValueError(
            f"`{name}` must be a regular expression, or a dict with one of {', '.join(KINDS)}, got {constraint!r}."
        )
    kind, content = next(iter(constraint.items()))
    is_text = isinstance(content, str)
    if not is_text and (kind != "json_schema" or not _is_json(content)):
        expected = "a text" if kind != "json_schema" else "JSON, as a text or a dict,"
        raise ValueError(f"`{name}` must hold {expected} as {kind!r}, got {content!r}.")


def _is_json(content: Any) -> bool:
    """Return whether a value is a dictionary that JSON can hold."""
    try:
        json.dumps(content)
    except (TypeError, ValueError):
        return False
    return isinstance(content, dict)


def automaton_of(
    constraint: str | dict[str, Any],
    tokenizer: PreTrainedTokenizerBase | None,
    vocab_size: int,
    eos_token_ids: Sequence[int],
) -> TokenAutomaton:
    """Return the automaton over a model's tokens for a constraint; those of earlier calls are kept.

    Args:
        constraint (`str` or `dict`):
            What was checked by [`check_constraint`].
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Spells the tokens.
        vocab_size (`int`):
            Number of tokens of the model.
        eos_token_ids (`Sequence[int]`):
            Tokens that end an answer.

    Raises:
        ValueError: if there is no tokenizer, or it does not spell tokens one by one, the expression or schema is
            invalid, or its matches cannot be spelled.
        ImportError: if the package outlines-core is missing, or lark for a grammar.
    """
    if tokenizer is None:
        raise ValueError("`tokenizer` must be given with `constraint`, got None.")
    key = (json.dumps(constraint), len(tokenizer), vocab_size, tuple(eos_token_ids))
    kept = _KEPT.setdefault(tokenizer, {})
    if key not in kept:
        while len(kept) >= _MAX_KEPT:
            kept.pop(next(iter(kept)))
        kept[key] = _compiled(constraint, tokenizer, vocab_size, eos_token_ids)
    return kept[key]


def _compiled(
    constraint: str | dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    eos_token_ids: Sequence[int],
) -> TokenAutomaton:
    """Compile a constraint with outlines-core."""
    try:
        from outlines_core import Index, Vocabulary
    except ImportError as error:
        raise ImportError(
            '`constraint` needs the package outlines-core: pip install "demask-hf[constraints]".'
        ) from error
    expression = _expression_of(constraint)
    spelled: dict[bytes, list[int]] = {}
    for token, spelling in spellings_of(tokenizer).items():
        if token < vocab_size and token not in eos_token_ids and spelling:
            spelled.setdefault(spelling, []).append(token)
    # The library (0.2.14) drops a token of one byte behind what is a match already: "(ab)+" then accepts "ab" alone.
    # Nothing is a match before a last character that no text has, and a state that reads it accepts.
    try:
        # What is no expression by itself may become one between parentheses.
        Index(expression, Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)}))
        spelled[_LAST.encode()] = [vocab_size + 1]
        index = Index(f"(?:{expression}){_LAST}", Vocabulary(vocab_size, spelled))
    except ValueError as error:
        raise ValueError(
            "`constraint` must be a regular expression without look-around and `^` or `$`, whose matches the "
            f"tokenizer can spell, got {expression!r}: {error}"
        ) from error
    known, final = index.get_transitions(), index.get_final_states()
    accepting = [state for state, targets in known.items() if targets.get(vocab_size + 1) in final]
    transitions = (
        (state, token, target)
        for state, targets in known.items()
        for token, target in targets.items()
        if token < vocab_size
    )
    return TokenAutomaton.of(transitions, index.get_initial_state(), accepting, vocab_size, eos_token_ids)


def _expression_of(constraint: str | dict[str, Any]) -> str:
    """Return the regular expression of a constraint."""
    if isinstance(constraint, str):
        return constraint
    kind, content = next(iter(constraint.items()))
    if kind == "regex":
        return content
    if kind == "grammar":
        return expression_of_grammar(content)
    from outlines_core.json_schema import build_regex_from_schema

    try:
        return build_regex_from_schema(content if isinstance(content, str) else json.dumps(content))
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"`constraint` must hold a supported JSON schema, got {content!r}: {reason}") from error


def spellings_of(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """Return what each token adds to a text, special tokens left out.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            A byte-level tokenizer, or one whose tokens have the same text wherever they stand.

    Raises:
        ValueError: if the text of its tokens depends on the tokens around them.
    """
    added = {token: each.content for token, each in tokenizer.added_tokens_decoder.items()}
    special = {token for token, each in tokenizer.added_tokens_decoder.items() if each.special}
    special |= set(tokenizer.all_special_ids)
    tokens = {token: text for text, token in tokenizer.get_vocab().items() if token not in special}
    if _is_byte_level(tokenizer):
        byte_of = _bytes_of_characters()
        return {
            token: added[token].encode() if token in added else bytes(byte_of[each] for each in text)
            for token, text in tokens.items()
        }
    plain = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    texts: dict[int, str] = {token: str(tokenizer.decode([token], **plain)) for token in sorted(tokens)}
    together = (tokenizer.decode(order, **plain) for order in (list(texts), list(texts)[::-1]))
    joined = ("".join(texts.values()), "".join(reversed(texts.values())))
    if tuple(together) != joined:
        raise ValueError(
            "`tokenizer` must be byte-level, or give a token the same text everywhere, to be used with `constraint`, "
            f"got a {type(tokenizer).__name__} whose tokens depend on those around them."
        )
    return {token: text.encode() for token, text in texts.items()}


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokens stand for bytes, spelled with the characters of GPT-2."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in repr(backend.decoder)


def _bytes_of_characters() -> dict[str, int]:
    """Return the byte of each character in which byte-level tokenizers write one.

    Printable characters of Latin-1 stand for themselves, the others are numbered from 256 on.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + place): byte for place, byte in enumerate(others)}}


def check_fits(automaton: TokenAutomaton, num_new_tokens: int, never: Sequence[int]) -> None:
    """Refuse an automaton that accepts no answer of the length that there is.

    Args:
        automaton ([`TokenAutomaton`]):
            What an answer must match.
        num_new_tokens (`int`):
            Length of the answer.
        never (`Sequence[int]`):
            Tokens that are never written.

    Raises:
        ValueError: if no answer fits.
    """
    shortest = automaton.shortest(never)
    if shortest is None:
        raise ValueError("`constraint` must have a match of tokens that may be written, got one without any.")
    if shortest > num_new_tokens:
        raise ValueError(
            f"`constraint` must have a match within `max_new_tokens` ({num_new_tokens}), got one whose shortest takes "
            f"{shortest} tokens."
        )
    if not num_new_tokens:
        raise ValueError("`max_new_tokens` must be at least 1 with `constraint`, got 0.")
    is_free = torch.ones_like(automaton.class_of, dtype=torch.float64)
    is_free[list(never)] = 0.0
    weights = automaton.class_weights(is_free.log()[None], False).expand(1, num_new_tokens, -1)
    if completion_weights(automaton, weights, False)[0, 0, automaton.initial].isneginf():
        raise ValueError(
            f"`constraint` must have a match of exactly `max_new_tokens` ({num_new_tokens}) for a model without an "
            "end-of-sequence token, got none."
        )
