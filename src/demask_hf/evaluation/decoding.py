"""Decode prompts in batches and count what they cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..generation.encoding import Prompt, encode_batch, text_of
from ..generation.mixin import DemaskGenerationMixin
from ..strategies import UnmaskingStrategy
from ..validation import check_count


@dataclass(frozen=True)
class Decoding:
    """One decoded prompt with what it cost.

    Args:
        prompt (`str`):
            The prompt.
        answer (`str`):
            Text after the prompt, without special tokens; for a prompt with masks, text from the first mask on.
        tokens (`tuple[int, ...]`):
            Token ids of that text, up to and including the first end-of-sequence token.
        unmask_steps (`tuple[int, ...]`):
            Step at which each of these tokens was written, from 0; -1 for tokens of the prompt.
        num_forward_passes (`int`):
            Backbone forwards that the prompt needed.
        num_probe_passes (`int`):
            Forwards spent on measuring dependencies, not part of `num_forward_passes`.
        seconds (`float`):
            Wall-clock time of the prompt's batch, divided by the prompts in it.
        num_remasked (`int`, *optional*, defaults to 0):
            Written positions that were sent back to mask, or edited.
        num_row_forwards (`int`, *optional*):
            Versions of the row that these forwards computed, drafts included; by default one per forward pass.
    """

    prompt: str
    answer: str
    tokens: tuple[int, ...]
    unmask_steps: tuple[int, ...]
    num_forward_passes: int
    num_probe_passes: int
    seconds: float
    num_remasked: int = field(default=0, kw_only=True)
    num_row_forwards: int | None = field(default=None, kw_only=True)

    def __post_init__(self):
        if self.num_row_forwards is None:
            object.__setattr__(self, "num_row_forwards", self.num_forward_passes)

    @property
    def num_tokens(self) -> int:
        """Tokens written, the end-of-sequence token included."""
        return sum(step >= 0 for step in self.unmask_steps)

    @property
    def tokens_per_forward(self) -> float:
        """Tokens written per forward pass."""
        return self.num_tokens / max(self.num_forward_passes, 1)


def decode_prompts(
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    strategy: str | dict | UnmaskingStrategy | None = None,
    batch_size: int = 64,
    **generate_kwargs: Any,
) -> list[Decoding]:
    """Decode prompts in left-padded batches.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        prompts (`Sequence[str]`, or sequence of messages):
            The prompts; messages of a chat go through the tokenizer's chat template, see [`encode`].
        strategy (`str`, `dict` or [`UnmaskingStrategy`], *optional*):
            As in `generate`.
        batch_size (`int`, *optional*, defaults to 64):
            Prompts decoded together; it does not change the answers.
        generate_kwargs:
            Further arguments of `generate`. `seed` is one integer, prompt `i` is then decoded with `seed + i`, or a
            list with the seed of each prompt.

    Returns:
        `list[Decoding]`: one for each prompt, in their order.

    Raises:
        ValueError: if an argument of `generate` is wrong.
    """
    check_count("batch_size", batch_size)
    # A checkpoint may say otherwise.
    if generate_kwargs.setdefault("num_return_sequences", 1) != 1:
        asked = generate_kwargs["num_return_sequences"]
        raise ValueError(f"`num_return_sequences` must be 1 here, got {asked!r}: repeat the prompts instead.")
    seeds_of_prompts = generate_kwargs.pop("seed", None)
    if isinstance(seeds_of_prompts, int):
        seeds_of_prompts = [seeds_of_prompts + index for index in range(len(prompts))]
    generate_kwargs |= {"return_dict_in_generate": True, "tokenizer": tokenizer}
    decodings = []
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        ids, attention_mask = encode_batch(tokenizer, batch)
        seeds = None if seeds_of_prompts is None else seeds_of_prompts[start : start + batch_size]
        started = time.perf_counter()
        output: Any = model.generate(ids, attention_mask, strategy=strategy, seed=seeds, **generate_kwargs)
        # Reading the result waits for the device, so the measured time includes all work.
        names = ("num_forward_passes", "num_probe_passes", "num_remasked", "num_row_forwards")
        counts = zip(*(output[name].tolist() for name in names), strict=True)
        rows = zip(batch, output.sequences.tolist(), output.unmask_step.tolist(), counts, strict=True)
        seconds = (time.perf_counter() - started) / len(batch)
        for prompt, sequence, steps, own in rows:
            kept = _kept(steps, ids.shape[1])
            tokens = sequence[kept]
            answer = str(tokenizer.decode(tokens, skip_special_tokens=True))
            spent: Any = {"seconds": seconds, **dict(zip(names, own, strict=True))}
            decodings.append(Decoding(text_of(prompt), answer, tuple(tokens), tuple(steps[kept]), **spent))
    return decodings


def _kept(steps: list[int], prompt_length: int) -> slice:
    """Return the columns from the end of the prompt, or its first mask, to the last one that was written."""
    written = [column for column, step in enumerate(steps) if step >= 0]
    if not written:
        return slice(prompt_length, prompt_length)
    return slice(min(prompt_length, written[0]), max(prompt_length, written[-1] + 1))
