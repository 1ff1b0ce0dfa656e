"""What a decoding is given and what changes in it from step to step."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..strategies import ProbeLedger


@dataclass
class DecodingSettings:
    """Resolved settings of a `generate` call, defaults filled in.

    Args:
        prompt_length (`int`): Columns before the answer.
        block_length (`int`): Tokens in a block of the answer; at least 1.
        num_new_tokens (`int`): Length of the answer.
        num_blocks (`int`): Number of blocks; at least 1. Masks in the prompt belong to the first.
        num_steps (`int`, *optional*): Planned steps of a schedule; `None` is one per token.
        max_steps (`int`, *optional*): Cap on the steps of a row.
        temperature (`float`): Sampling temperature; 0 takes the most likely token.
        top_p (`float`, *optional*): Mass to keep.
        top_k (`int`, *optional*): Number of tokens to keep.
        eos_token_ids (`list[int]`): Tokens that end an answer; empty if every position is to be decoded.
        pad_token_id (`int`, *optional*): What is written after the end.
        cache (`str`): "none", "prefix" or "dual".
        cache_refresh_interval (`int`, *optional*): Forwards of a row from one full forward to the next.
        cache_commits_first (`bool`): With a cache, write the first position of a block after its full forward.
    """

    prompt_length: int
    num_new_tokens: int
    block_length: int
    num_blocks: int
    num_steps: int | None
    max_steps: int | None
    temperature: float
    top_p: float | None
    top_k: int | None
    eos_token_ids: list[int]
    pad_token_id: int | None
    cache: str = "none"
    cache_refresh_interval: int | None = None
    cache_commits_first: bool = False


@dataclass
class DecodingState:
    """What changes from step to step. Rows are never reordered; finished ones are only left out of the forward.

    Args:
        sequences (`torch.LongTensor` of shape `(batch, length)`): Token ids, masks included.
        attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 0 at left padding.
        positions (`torch.LongTensor` of shape `(batch, length)`): Counted from the first real token of the row.
        seeds (`torch.LongTensor` of shape `(batch,)`): Seed of each row.
        token_type_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): Segments, for models with them.
        unmask_step (`torch.LongTensor` of shape `(batch, length)`): Step that wrote a position, else -1.
        num_forward_passes (`torch.LongTensor` of shape `(batch,)`): Forward passes of each row so far.
        stop_lengths (`torch.LongTensor` of shape `(batch,)`): Columns to keep; fewer once a criterion ends the row.
        ledger ([`ProbeLedger`]): Cost of probe forwards.
    """

    sequences: torch.LongTensor
    attention_mask: torch.LongTensor | None
    positions: torch.LongTensor
    seeds: torch.LongTensor
    token_type_ids: torch.LongTensor | None = None
    unmask_step: torch.LongTensor = field(init=False)
    num_forward_passes: torch.LongTensor = field(init=False)
    stop_lengths: torch.LongTensor = field(init=False)
    ledger: ProbeLedger = field(init=False)

    def __post_init__(self):
        self.unmask_step = torch.full_like(self.sequences, -1)
        self.num_forward_passes = torch.zeros_like(self.seeds)
        self.stop_lengths = torch.full_like(self.seeds, self.sequences.shape[1])
        self.ledger = ProbeLedger(
            torch.zeros_like(self.seeds), torch.zeros(self.seeds.shape, device=self.seeds.device)
        )


# Called after every step with the state, and the sequences with each remaining candidate's likeliest token filled in.
OnStep = Callable[[DecodingState, torch.LongTensor], None]
