"""Step 6 of the loop for strategies that change what is written: remask, edit, and return to a row."""

import torch

from ..strategies import Decision
from .state import DecodingState


_REMASKS_PER_POSITION = 8


def most_remasks(max_remasks: int | None, is_open: torch.Tensor) -> torch.Tensor:
    """Return the cap on changes of each row: what is set, or 8 for each position to write; shape `(batch,)`."""
    num_open = is_open.sum(dim=-1)
    return _REMASKS_PER_POSITION * num_open if max_remasks is None else torch.full_like(num_open, max_remasks)


def written_positions(
    state: DecodingState, candidates: torch.Tensor, kept_lengths: torch.Tensor, max_steps: int | None
) -> torch.Tensor:
    """Return the positions that the call wrote so far, in rows that run now.

    A row runs if it has candidates; without any, if its strategy wants to return to it, it was not stopped, and it has
    a step left.

    Args:
        state ([`DecodingState`]):
            The state.
        candidates (`torch.BoolTensor` of shape `(batch, length)`):
            Positions that may be unmasked now.
        kept_lengths (`torch.LongTensor` of shape `(batch,)`):
            Columns up to the end of each row; what lies behind does not count.
        max_steps (`int`, *optional*):
            Cap on the steps of a row.

    Returns:
        `torch.BoolTensor` of shape `(batch, length)`.
    """
    columns = torch.arange(candidates.shape[1], device=candidates.device)
    returns = state.is_revisited & (state.stop_lengths == candidates.shape[1])
    if max_steps is not None:
        returns &= state.num_steps < max_steps
    runs = candidates.any(dim=-1) | returns
    return (state.unmask_step >= 0) & (columns < kept_lengths[:, None]) & runs[:, None]


def change_written(
    state: DecodingState,
    decision: Decision,
    tokens: torch.Tensor,
    before: torch.Tensor,
    written: torch.Tensor,
    mask_token_id: int,
    max_remasks: torch.Tensor,
) -> torch.Tensor:
    """Edit and remask written positions as a strategy decided; a row that would exceed the cap is left as it is.

    Args:
        state ([`DecodingState`]):
            The state after the candidates are written; changed in place.
        decision ([`Decision`]):
            What the strategy decided.
        tokens (`torch.LongTensor` of shape `(batch, length)`):
            Token of each position that the decision selects.
        before (`torch.LongTensor` of shape `(batch, length)`):
            The sequences before the step.
        written (`torch.BoolTensor` of shape `(batch, length)`):
            Positions that may be changed: written in an earlier step, and not behind the end of their row.
        mask_token_id (`int`):
            Id of the mask token.
        max_remasks (`torch.LongTensor` of shape `(batch,)`):
            Changes of each row in the whole call.

    Returns:
        `torch.BoolTensor` of shape `(batch, length)`: the edited positions.
    """
    edited, remasked = torch.zeros_like(written), torch.zeros_like(written)
    if decision.tokens is not None:
        edited = decision.selected & written & (tokens != before)
    if decision.remasked is not None:
        remasked = decision.remasked & written & ~decision.selected
    num_changed = (edited | remasked).sum(dim=-1)
    is_allowed = (state.num_remasked + num_changed <= max_remasks)[:, None]
    edited, remasked = edited & is_allowed, remasked & is_allowed
    state.sequences = torch.where(edited, tokens, state.sequences).masked_fill(remasked, mask_token_id)
    state.unmask_step = torch.where(edited, state.num_forward_passes[:, None], state.unmask_step)
    state.unmask_step = state.unmask_step.masked_fill(remasked, -1)
    state.num_remasked = state.num_remasked + num_changed * is_allowed[:, 0]
    if decision.revisited is None:
        state.is_revisited = torch.zeros_like(state.is_revisited)
    else:
        # A row in which a step changed nothing would get the same step for ever.
        has_changed = (state.sequences != before).any(dim=-1)
        state.is_revisited = decision.revisited & has_changed
    return edited
