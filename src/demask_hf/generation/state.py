"""The state of a decoding, which changes from step to step."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..strategies import ProbeLedger


@dataclass
class DecodingState:
    """What changes from step to step. Rows are never reordered; finished ones are only excluded from the forward.

    Args:
        sequences (`torch.LongTensor` of shape `(batch, length)`): Token ids, masks included.
        attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 0 at left padding.
        positions (`torch.LongTensor` of shape `(batch, length)`): Counted from the first real token of the row.
        seeds (`torch.LongTensor` of shape `(batch,)`): Seed of each row.
        token_type_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): Segment ids, for models that use
            them.
        blocks (`torch.LongTensor` of shape `(batch, length)`): Block of each column, ascending from 0; by default one.
        unmask_step (`torch.LongTensor` of shape `(batch, length)`): Step that wrote each position, else -1.
        num_forward_passes (`torch.LongTensor` of shape `(batch,)`): Forward passes of each row so far.
        num_remasked (`torch.LongTensor` of shape `(batch,)`): Written positions of each row that were remasked or
            edited so far.
        is_revisited (`torch.BoolTensor` of shape `(batch,)`): Rows that get another step even if nothing in them is
            masked.
        num_steps (`torch.LongTensor` of shape `(batch,)`): Denoising steps of each row so far: its forward passes, and
            the steps that accepted drafts saved.
        num_row_forwards (`torch.LongTensor` of shape `(batch,)`): Versions of each row computed so far.
        stop_lengths (`torch.LongTensor` of shape `(batch,)`): Columns to keep; fewer once a criterion ends the row.
        ledger ([`ProbeLedger`]): Cost of probe forwards.
        block (`torch.LongTensor` of shape `(batch,)`): Block of each row; -1 before the first step.
        block_start (`torch.LongTensor` of shape `(batch,)`): Steps of the row when it entered its block.
        num_block_steps (`torch.LongTensor` of shape `(batch,)`): Steps planned for its block.
        faults (`torch.BoolTensor` of shape `(2,)`, or `(3,)`): Whether the last predictions contained NaN, and a
            position without a token other than the mask; then whether a strategy chose the mask as a token.
    """

    sequences: torch.Tensor
    attention_mask: torch.Tensor | None
    positions: torch.Tensor
    seeds: torch.Tensor
    token_type_ids: torch.Tensor | None = None
    blocks: torch.Tensor = None  # type: ignore[assignment]
    unmask_step: torch.Tensor = field(init=False)
    num_forward_passes: torch.Tensor = field(init=False)
    num_remasked: torch.Tensor = field(init=False)
    is_revisited: torch.Tensor = field(init=False)
    num_steps: torch.Tensor = field(init=False)
    num_row_forwards: torch.Tensor = field(init=False)
    stop_lengths: torch.Tensor = field(init=False)
    ledger: ProbeLedger = field(init=False)
    block: torch.Tensor = field(init=False)
    block_start: torch.Tensor = field(init=False)
    num_block_steps: torch.Tensor = field(init=False)
    faults: torch.Tensor = field(init=False)

    def __post_init__(self):
        if self.blocks is None:
            self.blocks = torch.zeros_like(self.sequences)
        self.unmask_step = torch.full_like(self.sequences, -1)
        self.num_forward_passes = torch.zeros_like(self.seeds)
        self.num_remasked = torch.zeros_like(self.seeds)
        self.is_revisited = torch.zeros_like(self.seeds, dtype=torch.bool)
        self.num_steps, self.num_row_forwards = torch.zeros_like(self.seeds), torch.zeros_like(self.seeds)
        self.stop_lengths = torch.full_like(self.seeds, self.sequences.shape[1])
        self.ledger = ProbeLedger(
            torch.zeros_like(self.seeds), torch.zeros(self.seeds.shape, device=self.seeds.device)
        )
        self.block = torch.full_like(self.seeds, -1)
        self.block_start, self.num_block_steps = torch.zeros_like(self.seeds), torch.zeros_like(self.seeds)
        self.faults = torch.zeros(2, dtype=torch.bool, device=self.seeds.device)


# Called after every step with the state and a draft: the sequences with a token at every remaining candidate.
OnStep = Callable[[DecodingState, torch.Tensor], None]
