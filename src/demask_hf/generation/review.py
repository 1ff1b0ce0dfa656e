"""What the model predicts at positions that are written already."""

import torch

from ..functional.distributions import score_of
from ..functional.sampling import Sampling, draw_tokens
from ..strategies import Review


def own_masked(sequences: torch.Tensor, written: torch.Tensor, mask_token_id: int) -> torch.Tensor:
    """Return a text for each written position, in which it is a mask, shape `(written positions, length)`."""
    rows, columns = written.nonzero(as_tuple=True)
    return sequences[rows].scatter_(1, columns[:, None], mask_token_id)


def review_of(
    sequences: torch.Tensor,
    written: torch.Tensor,
    logits: torch.Tensor,
    samplings: tuple[Sampling, Sampling],
    mask_token_id: int,
    noise: torch.Tensor | None,
) -> Review:
    """Return what was predicted at the written positions.

    Args:
        sequences (`torch.LongTensor` of shape `(batch, length)`):
            Token ids.
        written (`torch.BoolTensor` of shape `(batch, length)`):
            The positions.
        logits (`torch.Tensor` of shape `(written positions, vocabulary)`):
            Their predictions after logits processors, row-major.
        samplings (`tuple` of two [`Sampling`]):
            Temperature and filters of what tokens are drawn from, and of what the strategy reads.
        mask_token_id (`int`):
            Id of the token that is never written.
        noise (`torch.Tensor` of shape `(written positions,)`, *optional*):
            Uniform numbers to draw tokens with; by default the most likely ones are taken.
    """
    drawing, scored = samplings
    places = written.nonzero(as_tuple=True)
    probabilities = scored.probabilities(logits)
    drawn = probabilities if noise is None else drawing.probabilities(logits)
    tokens = draw_tokens(logits, drawn, mask_token_id, noise)

    def placed(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(written.shape).index_put_(places, values)

    kept_probability = placed(score_of("token_probability", probabilities, sequences[places]))
    token_probability = placed(score_of("token_probability", probabilities, tokens))
    return Review(kept_probability, placed(tokens), token_probability)
