"""From prompts to token ids, in the same way for decoding, training, evaluation and measurement."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase


#: A text as the model reads it, or the messages of a chat, each with "role" and "content".
Prompt = str | Sequence[dict[str, str]]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Return the token ids of a prompt.

    Messages are put into the tokenizer's chat template, with the start of the answer. A text gets the special tokens
    that the tokenizer adds, unless it already begins with the beginning-of-sequence token, as a rendered chat template
    does.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The model's tokenizer.
        prompt (`str` or `Sequence[dict[str, str]]`):
            A text, or messages.

    Raises:
        ValueError: if messages are given and the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        bos = tokenizer.bos_token
        is_rendered = isinstance(bos, str) and prompt.startswith(bos)
        return list(tokenizer(prompt, add_special_tokens=not is_rendered)["input_ids"])
    if tokenizer.chat_template is None:
        raise ValueError("`tokenizer` must have a chat template for a prompt of messages, got one without.")
    found: Any = tokenizer.apply_chat_template(
        list(prompt), tokenize=True, add_generation_prompt=True, return_dict=True
    )
    return list(found["input_ids"])


def text_of(prompt: Prompt) -> str:
    """Return the text of a prompt; for messages, that of the last one."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def left_padded(rows: Sequence[Sequence[int]], pad_token_id: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids of different lengths as a left-padded batch.

    Args:
        rows (`Sequence[Sequence[int]]`):
            Token ids of each row.
        pad_token_id (`int`, *optional*):
            Token before shorter rows; 0 if there is none, because nothing attends to it.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: ids and attention mask (0 at padding), long, `(batch, longest row)`.
    """
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), pad_token_id or 0)
    attention_mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        start = length - len(tokens)
        ids[row, start:] = torch.tensor(list(tokens), dtype=torch.long)
        attention_mask[row, start:] = 1
    return ids, attention_mask


def encode_batch(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask of prompts, padded on the left; see [`encode`] and [`left_padded`]."""
    return left_padded([encode(tokenizer, prompt) for prompt in prompts], tokenizer.pad_token_id)


def draft_texts(
    tokenizer: PreTrainedTokenizerBase,
    tokens: list[int],
    steps: list[int],
    history: list[list[int]] | None = None,
    mask: str = "_",
) -> list[str]:
    """Return the answer of a row after each step, from the first written position to the last.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The model's tokenizer.
        tokens (`list[int]`):
            The finished row.
        steps (`list[int]`):
            Step at which each position was finally written, else -1.
        history (`list[list[int]]`, *optional*):
            The row before the first step and after each one; without it each token is shown from its step on.
        mask (`str`, *optional*, defaults to `"_"`):
            Text for a token that is not written.
    """
    written = [column for column, step in enumerate(steps) if step >= 0]
    if not written:
        return []
    shown = slice(written[0], written[-1] + 1)
    if history is None:
        texts = [tokens[shown] for _ in range(max(steps) + 1)]
        is_written = [[step <= last for step in steps[shown]] for last in range(max(steps) + 1)]
    else:
        # The first written position was a mask before.
        mask_token_id, texts = history[0][written[0]], [each[shown] for each in history[1:]]
        is_written = [[token != mask_token_id for token in each] for each in texts]

    def spelled(token: int, is_shown: bool) -> str:
        return str(tokenizer.decode([token], skip_special_tokens=True)) if is_shown else mask

    return ["".join(map(spelled, *pair)) for pair in zip(texts, is_written, strict=True)]
