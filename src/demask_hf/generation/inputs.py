"""Checks of what a caller of `generate` passes besides settings: prompts, seeds and objects."""

from numbers import Integral
from typing import Any

import torch
from transformers import GenerationConfig


def check_inputs(input_ids: torch.Tensor | None, inputs: torch.Tensor | None) -> torch.Tensor | None:
    """Return the prompts, which transformers calls by two names.

    Raises:
        ValueError: if they are given by both.
    """
    if input_ids is not None and inputs is not None:
        raise ValueError("`inputs` must be None when `input_ids` is given, got both.")
    return inputs if input_ids is None else input_ids


def check_prompts(input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the prompts after checking that they are a left-padded batch of token ids.

    Raises:
        TypeError: if `input_ids` is not a tensor of integers, or `attention_mask` no tensor.
        ValueError: if a prompt is empty, or the attention mask has another shape or is not left-padded.
    """
    if not isinstance(input_ids, torch.Tensor) or not _holds_integers(input_ids):
        kind = f"one of {input_ids.dtype}" if isinstance(input_ids, torch.Tensor) else type(input_ids).__name__
        raise TypeError(f"`input_ids` must be a tensor of token ids, got {kind}.")
    _check_readable("input_ids", input_ids)
    if input_ids.ndim != 2 or input_ids.numel() == 0:
        shape = tuple(input_ids.shape)
        raise ValueError(f"`input_ids` must have shape (batch, prompt_length) with at least one token, got {shape}.")
    if attention_mask is not None:
        _check_mask(attention_mask, input_ids)
    return input_ids.long()


def _check_mask(attention_mask: Any, input_ids: torch.Tensor) -> None:
    """Raise an error unless a mask is that of a left-padded batch."""
    if not isinstance(attention_mask, torch.Tensor):
        raise TypeError(f"`attention_mask` must be a tensor, got {type(attention_mask).__name__}.")
    _check_readable("attention_mask", attention_mask)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"`attention_mask` must have the shape of `input_ids` {tuple(input_ids.shape)}, "
            f"got {tuple(attention_mask.shape)}."
        )
    is_real = attention_mask.bool()
    other = attention_mask[attention_mask != is_real]
    if other.numel():
        raise ValueError(f"`attention_mask` must hold 1 at tokens and 0 at padding, got {other[0].item()}.")
    if not is_real.any(dim=-1).all():
        row = int((~is_real.any(dim=-1)).nonzero()[0])
        raise ValueError(f"`attention_mask` must leave at least one token in every prompt, got none in row {row}.")
    if (is_real[:, :-1] & ~is_real[:, 1:]).any():
        raise ValueError(
            "`attention_mask` must be padded on the left, got a 0 after a 1: use a tokenizer with "
            "`padding_side='left'`."
        )


def _check_readable(name: str, tensor: torch.Tensor) -> None:
    """Raise a `ValueError` for tensors without values, and for sparse ones."""
    if tensor.is_meta or tensor.layout != torch.strided:
        kind = "one on the meta device" if tensor.is_meta else f"a tensor of layout {tensor.layout}"
        raise ValueError(f"`{name}` must be a dense tensor with values, got {kind}.")


def _holds_integers(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def check_objects(
    generation_config: Any = None,
    streamer: Any = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generator: Any = None,
    tokenizer: Any = None,
    token_type_ids: Any = None,
) -> None:
    """Raise a `TypeError` unless each object that is given has what `generate` uses of it."""
    if generation_config is not None and not isinstance(generation_config, GenerationConfig):
        raise TypeError(f"`generation_config` must be a GenerationConfig, got {_kind(generation_config)}.")
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise TypeError(f"`streamer` must have the methods put and end, got {_kind(streamer)}.")
    for name, given in (("logits_processor", logits_processor), ("stopping_criteria", stopping_criteria)):
        is_list = given is None or isinstance(given, list | tuple)
        other = next((each for each in given or () if not callable(each)), None) if is_list else given
        if not is_list or other is not None:
            raise TypeError(f"`{name}` must be a list of callables, got {_kind(other)}.")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"`generator` must be a torch.Generator, got {_kind(generator)}.")
    if tokenizer is not None and not hasattr(tokenizer, "decode"):
        raise TypeError(f"`tokenizer` must be a tokenizer, got {_kind(tokenizer)}.")
    if token_type_ids is not None and not isinstance(token_type_ids, torch.Tensor):
        raise TypeError(f"`token_type_ids` must be a tensor, got {_kind(token_type_ids)}.")


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"


def check_vocabulary(name: str, tokens: Any, vocab_size: int | None) -> None:
    """Raise a `ValueError` if a token id is outside the vocabulary.

    Args:
        name (`str`):
            Name of the argument.
        tokens (`torch.Tensor`, `int`, `list[int]` or `list[list[int]]`, *optional*):
            Token ids.
        vocab_size (`int`, *optional*):
            Size of the vocabulary; `None` if it is not known.
    """
    if tokens is None or vocab_size is None:
        return
    ids = torch.as_tensor(tokens).flatten()
    if not ids.numel():
        return
    # One transfer from the device for both.
    low, high = torch.stack(ids.aminmax()).tolist()
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"`{name}` must hold token ids in [0, {vocab_size}), the vocabulary of the model, got "
            f"{low if low < 0 else high}."
        )


def row_seeds(
    seed: int | list[int] | None, generator: torch.Generator | None, num_prompts: int, num_answers: int = 1
) -> torch.Tensor:
    """Return one seed per row, shape `(num_prompts * num_answers,)`: the given ones, or drawn from the generator.

    Raises:
        ValueError: if both are given, there are not as many seeds as prompts or rows, or one has more than 64 bits.
    """
    batch = num_prompts * num_answers
    if seed is None:
        device = generator.device if generator is not None else "cpu"
        return torch.randint(1 << 62, (batch,), generator=generator, device=device)
    if generator is not None:
        raise ValueError("`seed` must be None when a `generator` is given, got both.")
    seeds: list[Any] = list(seed) if isinstance(seed, list | tuple) else [seed] * num_prompts
    if len(seeds) not in (num_prompts, batch) or not all(isinstance(one, Integral) for one in seeds):
        raise ValueError(f"`seed` must be one integer or one for each of the {num_prompts} rows, got {seed!r}.")
    if len(seeds) < batch:
        seeds = [one + number for one in seeds for number in range(num_answers)]
    for one in seeds:
        if not -(1 << 63) <= one < 1 << 63:
            raise ValueError(f"`seed` must be in [-2^63, 2^63), got {one}.")
    return torch.tensor([int(one) for one in seeds], dtype=torch.long)
