"""Shadow tokens: masks behind a sequence that predict written positions without seeing the token that stands there."""

import dataclasses

import torch

from .attention import MASK_IMPLEMENTATIONS
from .backbone import Backbone
from .prediction import PredictionRequest


def with_shadows(
    request: PredictionRequest,
    positions: torch.Tensor,
    targets: torch.Tensor,
    asked: torch.Tensor,
    mask_token_id: int,
    logits_shift: int,
    is_aligned: bool = True,
) -> PredictionRequest:
    """Return a request with a mask behind each row for each target, and predictions for some targets at the end.

    The sequence sees no shadow. A shadow sees the sequence without its target, and all shadows (WINO). It has the
    position that predicts its target: that of the target, or for a model whose output at position `i - 1` predicts
    position `i` the one before.

    Args:
        request ([`PredictionRequest`]):
            The request without shadows; its places stay first.
        positions (`torch.LongTensor` of shape `(rows, length)`):
            Position of each column, counted from the first real token.
        targets (`torch.LongTensor` of shape `(rows, shadows)`):
            Columns, ascending.
        asked (`torch.BoolTensor` of shape `(rows, shadows)`):
            Targets to predict.
        mask_token_id (`int`):
            Id of the mask token.
        logits_shift (`int`):
            Shift of the model's logits, 0 or 1.
        is_aligned (`bool`, *optional*, defaults to `True`):
            With `False`, as in public code for shifted models, a shadow has the position of its target, and the target
            is read from the shadow before it, which sees the target; the first one from the end of the sequence.
    """
    rows, length = request.sequences.shape
    count, device = targets.shape[1], targets.device
    shift = logits_shift if is_aligned else 0
    is_real = torch.ones_like(request.sequences, dtype=torch.bool)
    attention_mask = request.attention_mask
    if attention_mask is not None:
        is_real = attention_mask.bool()
        attention_mask = torch.nn.functional.pad(attention_mask, (0, count), value=1)
    attended = torch.zeros(rows, length + count, length + count, dtype=torch.bool, device=device)
    attended[:, :, :length] = is_real[:, None]
    attended[:, length:, length:] = True
    attended[:, length:].scatter_(2, targets[..., None], False)
    shadow_rows, slots = asked.nonzero(as_tuple=True)
    own_rows, own_columns = request.places
    # The backbone reads the output one column before, where logits are shifted.
    places = torch.cat([own_rows, shadow_rows]), torch.cat([own_columns, length + slots + shift])
    return dataclasses.replace(
        request,
        sequences=torch.nn.functional.pad(request.sequences, (0, count), value=mask_token_id),
        candidates=places,
        attention_mask=attention_mask,
        attended=attended,
        positions=torch.cat([positions, positions.gather(1, (targets - shift).clamp(min=0))], dim=1),
        part_size=None,
    )


def check_can_shadow(backbone: Backbone, name: str, is_rowwise: bool) -> None:
    """Refuse a strategy that verifies with shadow tokens for a model whose attention does not take such a mask.

    Raises:
        ValueError: if the model is not a native one, has an attention that takes no mask of its own, or runs each row
            alone.
    """
    if is_rowwise:
        raise ValueError(f"`batch_invariant` must be False for strategy {name!r}, which adds tokens, got True.")
    if not getattr(backbone.states_module, "_supports_block_cache", False):
        raise ValueError(
            f"`strategy` must not be {name!r} for a {type(backbone.model).__name__}, got {name!r}: it needs an "
            "attention mask of its own, which the native models (Dream, LLaDA, A2D) take and others may not."
        )
    implementation = getattr(backbone.model.config, "_attn_implementation", None)
    if implementation not in MASK_IMPLEMENTATIONS:
        raise ValueError(
            f"`attn_implementation` must be one of {', '.join(MASK_IMPLEMENTATIONS)} for strategy {name!r}, got "
            f"{implementation!r}."
        )
