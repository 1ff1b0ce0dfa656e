"""Drafts: versions of a row in which more is written, for strategies that look ahead."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..functional.dependency import ranks
from .step import DenoisingStep


@dataclass(frozen=True)
class Drafts:
    """Versions of the rows that the next forward computes beside the rows themselves.

    Args:
        sequences (`torch.LongTensor` of shape `(num_drafts, batch, length)`):
            The rows with more tokens written; of two drafts of a row, the one with fewer tokens comes first.
        num_steps (`torch.LongTensor` of shape `(num_drafts, batch)`):
            Steps of decoding without drafts that a draft is ahead of its row; 0 where there is no draft. Noise depends
            on the step, so a draft must state those that its row would have taken to it.
    """

    sequences: torch.Tensor
    num_steps: torch.Tensor


def nested_drafts(
    step: DenoisingStep, selected: torch.Tensor, scores: torch.Tensor, num_drafts: int, end_token_ids: Iterable[int]
) -> Drafts:
    """Return drafts that write one more candidate each, from high to low scores.

    Args:
        step ([`DenoisingStep`]):
            The step, with a row for each row of the batch.
        selected (`torch.BoolTensor` of shape `(batch, length)`):
            Positions that this step writes; every draft holds them.
        scores (`torch.Tensor` of shape `(num_candidates,)`):
            Score of each candidate; ties go to the earlier position.
        num_drafts (`int`):
            Most drafts of a row.
        end_token_ids (`Iterable[int]`):
            Tokens that end a row: nothing is written behind one.
    """
    tokens = step.at_positions(step.tokens, -1)
    written = torch.where(selected, tokens, step.sequences)
    waiting = step.at_positions(scores.double(), float("-inf")).masked_fill(~step.candidates, float("-inf"))
    waiting = waiting.masked_fill(selected, float("inf"))
    is_left = step.candidates & ~selected & ~_is_behind_an_end(tokens, ranks(waiting), end_token_ids)
    places = ranks(waiting.masked_fill(~is_left, float("-inf")))
    ahead = torch.arange(1, num_drafts + 1, device=places.device)[:, None, None]
    sequences = torch.where(is_left & (places < ahead), tokens, written)
    ahead = ahead.squeeze(-1)
    return Drafts(sequences, torch.where(ahead <= is_left.sum(dim=-1), ahead, 0))


def _is_behind_an_end(tokens: torch.Tensor, places: torch.Tensor, end_token_ids: Iterable[int]) -> torch.Tensor:
    """Return the positions with an end to their left that is written before them, shape `(batch, length)`."""
    is_end = torch.zeros_like(tokens, dtype=torch.bool)
    for token in end_token_ids:
        is_end |= tokens == token
    never = places.shape[-1]
    earliest = torch.where(is_end, places, never).cummin(dim=-1).values
    return torch.nn.functional.pad(earliest[:, :-1], (1, 0), value=never) < places
