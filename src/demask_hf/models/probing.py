"""What a model that nobody described shows when it is run: where its attention looks, what its output layer needs."""

from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from ..backbones.backbone import Backbone
from ..backbones.prediction import PredictionRequest
from ..backbones.quirks import BackboneQuirks


# Published models whose `generate`, not the model itself, makes the attention causal between blocks of this length.
BLOCKWISE_TYPES = {"llada2_moe": 32, "llada21_moe": 32, "sdar": 4, "sdar_moe": 4}
# Lengths of blocks in published models. The longest takes two blocks to see.
_BLOCK_LENGTHS = (4, 8, 16, 32, 64)
_MAX_LENGTH = 128
# An effect of a later token on earlier logits below this share of the effect the other way is no effect.
_CAUSAL_SHARE = 1e-3


@torch.no_grad()
def is_causal(model: PreTrainedModel) -> bool:
    """Return whether the first token moves the last logits, and the last token the first logits not."""
    logits = model(input_ids=_short_rows(model)).logits.float()
    backward = (logits[0, 0] - logits[1, 0]).abs().max()
    forward = (logits[0, -1] - logits[2, -1]).abs().max()
    return bool(forward > 1e-6 * logits.abs().max() and backward < _CAUSAL_SHARE * forward)


@torch.no_grad()
def causal_block_length(model: PreTrainedModel) -> int | None:
    """Return the length of the blocks whose logits do not depend on later blocks; `None` if there are none.

    The last token of a row is changed, then the first one of the last block that this shows. In a model with such
    blocks both move the logits of the whole last block and of nothing before; a window of attention moves along.

    Args:
        model (`PreTrainedModel`):
            A model whose first logits depend on the last token of a short row.
    """
    length = _row_length(model)
    # One row at a time: in a batch, equal rows may differ by rounding.
    row = _ids(model, torch.arange(length) * 5 % 61 + 3)[None]
    before = model(input_ids=row).logits[0].float()
    moved = _effect(model, row, before, length - 1)
    resolution = torch.finfo(model.dtype).eps * float(before.abs().max())
    for size in _BLOCK_LENGTHS:
        start = length - size
        if start < size or not _begins_at(moved, start, length - 1, resolution):
            continue
        if _begins_at(_effect(model, row, before, start), start, start, resolution):
            return size
    return None


def _begins_at(moved: torch.Tensor, start: int, changed: int, resolution: float) -> bool:
    """Return whether the logits move from `start` on, apart from those of the changed token, and not before."""
    inside = moved[start:][torch.arange(start, len(moved)) != changed].median()
    return bool(inside > resolution and moved[:start].max() < _CAUSAL_SHARE * inside)


def _effect(model: PreTrainedModel, row: torch.Tensor, before: torch.Tensor, place: int) -> torch.Tensor:
    """Return by how much the logits of each position move if the token at one place is another, `(length,)`."""
    changed = row.clone()
    changed[0, place] = _ids(model, row[0, place].cpu() + 1)
    return (model(input_ids=changed).logits[0].float() - before).abs().amax(dim=-1).cpu()


def _row_length(model: PreTrainedModel) -> int:
    """Return the largest power of two that the model has positions for, two of which may be set aside for padding."""
    positions = getattr(model.config, "max_position_embeddings", None) or _MAX_LENGTH + 2
    length = _MAX_LENGTH
    while length > positions - 2:
        length //= 2
    return length


def _short_rows(model: PreTrainedModel) -> torch.Tensor:
    """Return three rows of four tokens, alike but for the last and the first token."""
    return _ids(model, torch.tensor([[3, 4, 5, 6], [3, 4, 5, 7], [7, 4, 5, 6]]))


def _ids(model: PreTrainedModel, numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers as token ids of the model, on its device."""
    embeddings: Any = model.get_input_embeddings()
    return numbers.to(model.device) % embeddings.weight.shape[0]


@torch.no_grad()
def holds(model: PreTrainedModel, quirks: BackboneQuirks) -> bool:
    """Return whether the output layer gives the same logits when it sees chosen positions only."""
    ids = _short_rows(model)
    logits = model(input_ids=ids).logits.float()
    places = torch.ones_like(ids, dtype=torch.bool)
    places[0, 1] = False
    plain = replace(quirks, logits_shift=0, special_token_ids=())
    try:
        chosen = Backbone(model, 0, plain).predict(PredictionRequest(ids, places)).logits
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    expected = logits[places]
    if chosen.shape != expected.shape:
        return False
    return bool((chosen - expected.to(chosen)).abs().max() <= 1e-3 * logits.abs().max())
