"""Blocks of a model with block-causal attention: which columns they have, and what such a model cannot do."""

from dataclasses import dataclass

import torch
from transformers.utils import logging

from ..backbones.attention import check_takes_masks
from ..backbones.backbone import Backbone
from ..functional.candidates import CandidateIndex
from ..functional.masking import left_padded_positions, steps_of_blocks
from ..strategies import DecodingSettings, UnmaskingStrategy
from ..strategies.needs import AnswerGaps, Shadows
from .configuration import DemaskGenerationConfig


logger = logging.get_logger(__name__)


@dataclass
class BlockLayout:
    """The block of each column, with a copy on the host, which tells how far a forward must reach.

    Args:
        blocks (`torch.LongTensor` of shape `(batch, length)`):
            Block of each column, ascending; on the device of the sequences.
    """

    blocks: torch.Tensor

    def __post_init__(self):
        # Once in a call: the steps then wait for nothing.
        self._on_host = self.blocks.cpu()

    @classmethod
    def of(cls, settings: DecodingSettings, blocks: torch.Tensor) -> "BlockLayout | None":
        """Return the layout of a decoding; `None` if every position attends to all."""
        return None if settings.block_alignment is None else cls(blocks)

    @classmethod
    def of_model(cls, backbone: Backbone, prompt_length: int, attention_mask: torch.Tensor) -> "BlockLayout | None":
        """Return the layout of prompts and answers with the model's own blocks; `None` if it has none.

        Args:
            backbone ([`Backbone`]):
                The model.
            prompt_length (`int`):
                Columns before the answer.
            attention_mask (`torch.Tensor` of shape `(batch, length)`):
                0 at left padding.
        """
        quirks = backbone.quirks
        if quirks.block_length is None or not quirks.is_block_causal:
            return None
        positions = left_padded_positions(attention_mask)
        aligned = (quirks.block_alignment, quirks.block_length, prompt_length)
        return cls(block_numbers(*aligned, positions, attention_mask))

    def start(self, row: int, column: int) -> int:
        """Return the first column of the block that a column of a row belongs to."""
        own = self._on_host[row]
        return int((own < own[column]).sum())

    def end(self, row: int, column: int) -> int:
        """Return the column after the block that a column of a row belongs to."""
        own = self._on_host[row]
        return int((own <= own[column]).sum())

    def reach(self, index: CandidateIndex) -> int:
        """Return how many columns a forward needs that predicts these candidates of the rows or their versions."""
        lasts = zip(index.host_active, index.last_columns, strict=True)
        return max((self.end(row % len(self.blocks), column) for row, column in lasts), default=0)

    def width(self, asked: torch.Tensor, rows: torch.Tensor | None = None) -> int:
        """Return how many columns a forward needs that predicts these positions; waits for the device.

        Args:
            asked (`torch.BoolTensor` of shape `(sequences, length)`):
                The positions.
            rows (`torch.LongTensor` of shape `(sequences,)`, *optional*):
                Batch row of each sequence, or number of the version of one; by default they are the batch.
        """
        own = self.blocks if rows is None else self.blocks[rows % len(self.blocks)]
        last = own.masked_fill(~asked, -1).amax(dim=-1, keepdim=True)
        return int((own <= last).sum(dim=-1).amax())


def block_numbers(
    alignment: str | None,
    block_length: int,
    prompt_length: int,
    positions: torch.Tensor,
    attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return the block of each column, shape `(batch, length)`: ascending from 0.

    Without an alignment the prompt belongs to the first block of the answer.

    Args:
        alignment (`str`, *optional*):
            Where blocks begin, see [`BackboneQuirks`].
        block_length (`int`):
            Tokens in a block.
        prompt_length (`int`):
            Columns before the answer.
        positions (`torch.LongTensor` of shape `(batch, length)`):
            Counted from the first real token of each row.
        attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*):
            0 at left padding.
    """
    if alignment == "start":
        blocks = positions // block_length
        return blocks if attention_mask is None else blocks.masked_fill(attention_mask == 0, 0)
    columns = torch.arange(positions.shape[1], device=positions.device)
    blocks = (columns - prompt_length) // block_length
    blocks = blocks.clamp(min=0) if alignment is None else blocks + -(-prompt_length // block_length)
    return blocks.expand_as(positions)


def num_blocks_of(alignment: str | None, block_length: int, num_new: int, prompt_lengths: list[int]) -> int:
    """Return the largest number of blocks that an answer to one of these prompts has, at least 1.

    Args:
        alignment (`str`, *optional*):
            How blocks are counted; with "start" the first one may begin in the prompt.
        block_length (`int`):
            Tokens in a block.
        num_new (`int`):
            Tokens of the answer.
        prompt_lengths (`list[int]`):
            Length of each prompt without padding.
    """
    shared = [length % block_length for length in prompt_lengths] if alignment == "start" else [0]
    return max(1, *(-(-(tail + num_new) // block_length) for tail in shared))


def block_plans(settings: DecodingSettings, blocks: torch.Tensor) -> torch.Tensor | None:
    """Return the steps that a schedule plans for each block of the answer, shape `(batch, num_blocks)`.

    The answer to one prompt may have one block more than that to another; each row's plan is that of the row alone.
    """
    if settings.num_steps is None:
        return None
    counts = [settings.num_blocks] * len(blocks)
    if settings.block_alignment == "start":
        counts = (blocks[:, -1] - first_blocks(settings, blocks) + 1).tolist()
    plans = [steps_of_blocks(settings.num_steps, count) + [0] * (settings.num_blocks - count) for count in counts]
    return torch.tensor(plans, device=blocks.device)


def first_blocks(settings: DecodingSettings, blocks: torch.Tensor) -> torch.Tensor:
    """Return the block in which the answer of each row begins, shape `(batch,)`."""
    return blocks[:, min(settings.prompt_length, blocks.shape[1] - 1)]


def check_block_causal(backbone: Backbone, rule: UnmaskingStrategy, config: DemaskGenerationConfig) -> None:
    """Refuse what a model with block-causal attention cannot do; warn of blocks that it was not trained with.

    Raises:
        ValueError: if the strategy looks at later blocks, changes finished ones, or needs a mask of its own; for a
            setting that does; or if the attention takes no mask of four dimensions.
    """
    quirks, model = backbone.quirks, type(backbone.model).__name__
    if not quirks.is_block_causal:
        return
    name = getattr(rule, "name", type(rule).__name__)
    reasons = {
        "selects in all blocks at once": rule.selects_in_all_blocks,
        "reads the whole answer": any(isinstance(need, AnswerGaps) for need in rule.needs),
        "adds tokens behind the answer": any(isinstance(need, Shadows) for need in rule.needs),
        "changes finished blocks": rule.remasks and "review" not in rule.needs,
    }
    for reason, applies in reasons.items():
        if applies:
            raise ValueError(
                f"`strategy` must not be {name!r} for a {model}, which decodes one block after another, got {name!r}: "
                f"it {reason}."
            )
    for field, plain in (("compile", False), ("constraint", None), ("cache_refresh_interval", None)):
        if getattr(config, field) not in (plain, None):
            raise ValueError(
                f"`{field}` must be {plain} for a {model}, which decodes one block after another, got "
                f"{getattr(config, field)!r}."
            )
    check_takes_masks(getattr(backbone.model, "config", None), model)
    if config.block_length not in (None, quirks.block_length):
        logger.warning_once(
            f"`block_length` is {config.block_length}, and the model was trained with blocks of "
            f"{quirks.block_length}: its answers may be worse."
        )


__all__ = ["BlockLayout", "block_numbers", "block_plans", "check_block_causal", "first_blocks", "num_blocks_of"]
