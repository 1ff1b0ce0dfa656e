"""What the model predicts at positions that are written already."""

from typing import Any

import torch
from transformers import LogitsProcessorList

from ..backbones.backbone import Backbone
from ..backbones.prediction import PredictionRequest
from ..backbones.shadows import with_shadows
from ..functional.distributions import score_of
from ..functional.sampling import Sampling, draw_tokens
from ..strategies import DecodingSettings, Review, Shadows
from .state import DecodingState


def processed_logits(
    logits_processor: LogitsProcessorList | None,
    ids: Any,
    rows: torch.Tensor,
    attention_mask: torch.Tensor | None,
    mask_token_id: int,
    logits: torch.Tensor,
) -> torch.Tensor:
    """Return logits after the processors, for a text for each of them, which belongs to a row of the batch."""
    if not logits_processor or not len(ids):
        return logits
    if attention_mask is not None:
        # Padding is no text: a row must get what it gets alone.
        ids = ids.masked_fill(~attention_mask[rows].bool(), mask_token_id)
    return logits_processor(ids, logits)


def written_in_block(written: torch.Tensor, state: DecodingState, settings: Sampling) -> torch.Tensor:
    """Return the written positions of each row's block, masks of the prompt excluded, shape `(batch, length)`."""
    return torch.zeros_like(written).scatter(1, _block_columns(state, settings), True) & written


def _block_columns(state: DecodingState, settings: Sampling) -> torch.Tensor:
    """Return the columns of each row's block of new tokens, shape `(batch, block_length)`; none without new ones."""
    if not isinstance(settings, DecodingSettings) or not settings.num_new_tokens:
        return state.block.new_zeros(len(state.block), 0)
    columns = torch.arange(settings.block_length, device=state.block.device)
    return settings.prompt_length + state.block[:, None].clamp(min=0) * settings.block_length + columns


def shadowed(
    request: PredictionRequest,
    need: Shadows,
    written: torch.Tensor,
    state: DecodingState,
    active: torch.Tensor,
    backbone: Backbone,
    settings: Sampling,
) -> PredictionRequest:
    """Return the request with shadow tokens for the block of each active row; those of `written` are predicted."""
    targets = _block_columns(state, settings)[active]
    asked = written[active].gather(1, targets)
    quirks, mask_token_id = backbone.quirks, backbone.mask_token_id
    positions = state.positions[active]
    return with_shadows(request, positions, targets, asked, mask_token_id, quirks.logits_shift, need.is_aligned)


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
