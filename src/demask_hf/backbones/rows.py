"""`generate(batch_invariant=True)`: model and head see every row alone, in the shapes that it has alone.

How a sum is rounded depends on the shape of a matrix product and on whether attention gets a mask. In half precision
this changes near ties, so a row of a padded batch may be decoded otherwise than alone. The name is that of vLLM.
"""

import dataclasses
from typing import Any

import torch

from .backbone import Backbone
from .prediction import Prediction, PredictionRequest, joined_rows


class RowwiseBackbone(Backbone):
    """A backbone that runs each row of a request in a forward of its own, without its left padding.

    Probes are rows, too: each is one forward.

    Args:
        backbone ([`Backbone`]):
            The model.
    """

    is_rowwise = True

    def __init__(self, backbone: Backbone):
        super().__init__(backbone.model, backbone.mask_token_id, backbone.quirks)

    @torch.no_grad()
    def predict(self, request: PredictionRequest) -> Prediction:
        """Run the model once for each row that is asked for something, see [`Backbone.predict`].

        A cache must be that of the only row, and its `columns` must be counted without padding.
        """
        rows, columns = request.places
        batch, length = request.sequences.shape
        mask = request.attention_mask
        firsts = [0] * batch if mask is None else mask.long().argmax(dim=-1).tolist()
        counts = torch.bincount(rows, minlength=batch).tolist()
        predictions = [
            super(RowwiseBackbone, self).predict(_alone(request, row, first, own - first))
            for row, (first, own) in enumerate(zip(firsts, columns.split(counts), strict=True))
        ]
        found = predictions[0] if batch == 1 else joined_rows(predictions, request.part_size)
        if request.attention_layers is not None:
            pairs = zip(firsts, predictions, strict=True)
            found.attentions = torch.cat([_padded(prediction.attentions, first) for first, prediction in pairs])
        return found


def _alone(request: PredictionRequest, row: int, first: int, columns: torch.Tensor) -> PredictionRequest:
    """Return the request for one row whose tokens start at column `first`; `columns` are counted from there."""
    types, blocks, end = request.token_type_ids, request.blocks, None
    if blocks is not None:
        # As alone, the row ends with its own block.
        end = int((blocks[row] <= blocks[row, columns[-1] + first]).sum())
        blocks = blocks[row : row + 1, first:end]
    return dataclasses.replace(
        request,
        sequences=request.sequences[row : row + 1, first:end],
        candidates=(torch.zeros_like(columns), columns),
        attention_mask=None,
        token_type_ids=None if types is None else types[row : row + 1, first:end],
        blocks=blocks,
    )


def _padded(attentions: torch.Tensor | None, first: int) -> torch.Tensor:
    """Return attention of shape `(1, length, length)`, 0 at `first` columns of padding."""
    if attentions is None:
        raise ValueError("`attentions` must be returned by a model that is asked for them, got None.")
    return torch.nn.functional.pad(attentions, (first, 0, first, 0))


class RowwiseHead:
    """A dependency head that sees each row alone, without the padding of shorter rows.

    Args:
        head ([`DemaskHead`]):
            The head.
    """

    def __init__(self, head: torch.nn.Module):
        self.head = head

    def __call__(
        self, hidden_states: torch.Tensor, is_position: torch.Tensor | None = None, **inputs: torch.Tensor
    ) -> Any:
        """Return what the head returns, see [`DemaskHead.forward`]; of its output only the dependencies."""
        batch, size = hidden_states.shape[:2]
        widths = [size] * batch if is_position is None else is_position.sum(dim=-1).tolist()
        dependencies = hidden_states.new_zeros((batch, size, size), dtype=torch.float32)
        inputs["hidden_states"] = hidden_states
        output: Any = None
        for row, width in enumerate(widths):
            output = self.head(**{name: tensor[row : row + 1, :width] for name, tensor in inputs.items()})
            dependencies[row, :width, :width] = output.dependencies[0]
        output.dependencies = dependencies
        return output
