"""What a strategy may decide beyond positions to unmask, and what it then sees of the positions written before."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Decision:
    """What `select` returns where it does more than choose positions.

    Only positions that this call wrote, up to the end of their row, can be remasked or edited; the loop leaves others
    as they are. What a row may change is limited by `max_remasks` of `generate`: a step that would exceed it changes
    nothing in that row.

    Args:
        selected (`torch.BoolTensor` of shape `(batch, length)`):
            Positions to write: candidates, and with `tokens` also written positions, which are edited.
        tokens (`torch.LongTensor` of shape `(batch, length)`, *optional*):
            Token to write at each selected position, for strategies that choose them jointly; other entries are not
            read. By default the token that the loop would write.
        remasked (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            Written positions to send back to mask, none of them in `selected`; none by default.
        revisited (`torch.BoolTensor` of shape `(batch,)`, *optional*):
            Rows that get another step even if nothing in them is masked after this one; none by default. If nothing
            was masked before this step either, and the step changes nothing, the row ends all the same.
    """

    selected: torch.Tensor
    tokens: torch.Tensor | None = None
    remasked: torch.Tensor | None = None
    revisited: torch.Tensor | None = None


@dataclass(frozen=True)
class Review:
    """What the model predicts now at the positions that are written; it sees the token that stands there.

    Probabilities are filtered like those of the candidates, without `eos_penalty`. For logits processors, each of
    these positions is a mask in its own text.

    Args:
        kept_probability (`torch.Tensor` of shape `(batch, length)`):
            Probability of the token that stands there; 0 elsewhere.
        tokens (`torch.LongTensor` of shape `(batch, length)`):
            Token that would be written there now; 0 elsewhere.
        token_probability (`torch.Tensor` of shape `(batch, length)`):
            Probability of that token; 0 elsewhere.
    """

    kept_probability: torch.Tensor
    tokens: torch.Tensor
    token_probability: torch.Tensor
