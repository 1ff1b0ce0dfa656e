"""One forward pass for the rows of several loops: requests are put together, and predictions taken apart."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from ..backbones.backbone import Backbone
from ..backbones.prediction import Prediction, PredictionRequest


# Positions of a forward pass, padding included, over those of its rows: at most a fifth is padding.
MAX_PADDED = 1.25


@dataclass(frozen=True)
class Pass:
    """A forward pass that a loop waits for.

    Args:
        backbone ([`Backbone`]):
            The loop's own backbone.
        request ([`PredictionRequest`]):
            What it asks of it.
    """

    backbone: Backbone
    request: PredictionRequest

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and columns with their padding."""
        rows, length = self.request.sequences.shape
        return rows, length

    @property
    def key(self) -> Hashable:
        """Equal for passes that may be one; with a cache, other attention, or rows that run alone, none is shared."""
        if self.request.cache is not None or self.request.attended is not None or self.backbone.is_rowwise:
            return id(self)
        layers = self.request.attention_layers
        # Of two methods of equal objects only the objects are equal.
        layers = getattr(layers, "__self__", layers)
        has = tuple(getattr(self.request, name) is not None for name in ("token_type_ids", "blocks"))
        return self.backbone.quirks, self.backbone.mask_token_id, layers, self.request.part_size, has


class WaitingBackbone(Backbone):
    """A backbone that does not run the model but asks for each prediction.

    Args:
        backbone ([`Backbone`]):
            The backbone that the prediction is to come from.
        ask (`Callable[[Pass], Prediction]`):
            Returns the prediction of a forward pass.
    """

    def __init__(self, backbone: Backbone, ask: Callable[[Pass], Prediction]):
        super().__init__(backbone.model, backbone.mask_token_id, backbone.quirks)
        self._backbone, self._ask = backbone, ask
        # As the cache reads it.
        self.is_rowwise = backbone.is_rowwise  # type: ignore[misc]

    def predict(self, request: PredictionRequest) -> Prediction:
        """Return what somebody else predicts, see [`Backbone.predict`]."""
        return self._ask(Pass(self._backbone, request))


def grouped(passes: Sequence[Pass]) -> list[list[int]]:
    """Return which passes are run together, each by its index.

    Passes with equal keys are sorted by length, and a group ends where the next one would make padding more than a
    fifth of it.

    Args:
        passes (`Sequence[Pass]`):
            The passes that wait.
    """
    by_key: dict[Hashable, list[int]] = {}
    for index, one in enumerate(passes):
        by_key.setdefault(one.key, []).append(index)
    groups: list[list[int]] = []
    for indices in by_key.values():
        group: list[int] = []
        num_rows = num_positions = 0
        for index in sorted(indices, key=lambda index: passes[index].shape[1]):
            rows, length = passes[index].shape
            num_rows, num_positions = num_rows + rows, num_positions + rows * length
            if group and num_rows * length > MAX_PADDED * num_positions:
                groups.append(group)
                group, num_rows, num_positions = [], rows, rows * length
            group.append(index)
        groups.append(group)
    return groups


@torch.no_grad()
def predict_together(passes: Sequence[Pass]) -> list[Prediction]:
    """Run one forward pass in place of several, and return what each would have returned.

    Args:
        passes (`Sequence[Pass]`):
            Passes with equal keys, at least one.

    Returns:
        `list[Prediction]`: equal to the predictions of the passes alone, up to the rounding of padded batches.
    """
    backbone = passes[0].backbone
    if len(passes) == 1:
        return [backbone.predict(passes[0].request)]
    requests = [one.request for one in passes]
    found = backbone.predict(_merged(requests, _padding_of(backbone)))
    parts, row, place = [], 0, 0
    for request in requests:
        (num_rows, length), num_places = request.sequences.shape, len(request.places[0])
        rows, places = slice(row, row + num_rows), slice(place, place + num_places)
        parts.append(_part(found, rows, places, length))
        row, place = rows.stop, places.stop
    return parts


def _padding_of(backbone: Backbone) -> int:
    """Return the token before shorter rows. Models that count positions themselves know it by its id."""
    pad = getattr(getattr(backbone.model, "config", None), "pad_token_id", None)
    return pad if isinstance(pad, int) else 0


def _merged(requests: Sequence[PredictionRequest], pad_token_id: int) -> PredictionRequest:
    """Return one request for the rows of several, padded on the left to the longest."""
    width = max(request.sequences.shape[1] for request in requests)
    sequences, masks, types, blocks, rows, columns = [], [], [], [], [], []
    num_rows = 0
    for request in requests:
        padding = (width - request.sequences.shape[1], 0)
        sequences.append(torch.nn.functional.pad(request.sequences, padding, value=pad_token_id))
        mask = request.attention_mask
        mask = torch.ones_like(request.sequences) if mask is None else mask
        masks.append(torch.nn.functional.pad(mask, padding))
        if request.token_type_ids is not None:
            types.append(torch.nn.functional.pad(request.token_type_ids, padding))
        if request.blocks is not None:
            blocks.append(torch.nn.functional.pad(request.blocks, padding))
        own_rows, own_columns = request.places
        rows.append(own_rows + num_rows)
        columns.append(own_columns + padding[0])
        num_rows += len(request.sequences)
    is_padded = any(len(request.sequences[0]) < width or request.attention_mask is not None for request in requests)
    return dataclasses.replace(
        requests[0],
        sequences=torch.cat(sequences),
        candidates=(torch.cat(rows), torch.cat(columns)),
        attention_mask=torch.cat(masks) if is_padded else None,
        token_type_ids=torch.cat(types) if types else None,
        blocks=torch.cat(blocks) if blocks else None,
        with_hidden_states=any(request.with_hidden_states for request in requests),
    )


def _part(found: Prediction, rows: slice, places: slice, length: int) -> Prediction:
    """Return the prediction for some of the rows; missing logits are computed when they are read."""
    states, attentions = found.hidden_states, found.attentions
    return Prediction(
        # Those of the first candidates only, if they are computed in parts.
        found.logits[places],
        None if states is None else states[places],
        None if attentions is None else attentions[rows, -length:, -length:],
        found.output,
        found.part_size,
    )
