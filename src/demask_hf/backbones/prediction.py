"""The result of one forward pass for the candidates, and how to restrict a model to them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch


# A thread may replace a forward while it runs another one that was replaced.
_TURN = threading.RLock()


@dataclass(frozen=True)
class PredictionRequest:
    """A request to a model for one forward pass.

    Args:
        sequences (`torch.LongTensor` of shape `(batch, length)`):
            Token ids, masks included.
        candidates (`torch.BoolTensor` of shape `(batch, length)`, or `tuple` of two `torch.LongTensor`):
            Requested positions, or row and column of each, row-major; the tuple avoids a device synchronisation.
        attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*):
            0 at left padding; `None` if there is none.
        token_type_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
            Segment of each token, for models that take it.
        with_hidden_states (`bool`, *optional*, defaults to `True`):
            Whether the hidden states are needed.
        attention_layers (`Callable[[int], int]`, *optional*):
            Maps the number of layers to the number of last layers whose attention is requested; `None` requests none.
        cache (`Cache`, *optional*):
            A block cache, which keeps keys and values, and whose `columns` are those to compute; all if `None`.
        part_size (`int`, *optional*):
            Compute the logits of this many candidates only; [`Prediction.parts`] computes the others later. By
            default, and for models whose hidden states cannot be separated from the output layer, all.
        attended (`torch.BoolTensor` of shape `(batch, length, length)`, *optional*):
            Which keys (last) each query sees; by default everything but padding. With `positions`.
        positions (`torch.LongTensor` of shape `(batch, length)`, *optional*):
            Position of each token; by default they are counted.
        blocks (`torch.LongTensor` of shape `(batch, length)`, *optional*):
            Block of each column, ascending: a position sees its own block and earlier ones. By default the attention
            is that of the model.
    """

    sequences: torch.Tensor
    candidates: torch.Tensor | tuple[torch.Tensor, torch.Tensor]
    attention_mask: torch.Tensor | None = None
    token_type_ids: torch.Tensor | None = None
    with_hidden_states: bool = True
    attention_layers: Callable[[int], int] | None = None
    cache: Any = None
    part_size: int | None = None
    attended: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    blocks: torch.Tensor | None = None

    @property
    def places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column of each candidate, row-major."""
        if isinstance(self.candidates, tuple):
            return self.candidates
        rows, columns = self.candidates.nonzero(as_tuple=True)
        return rows, columns

    def up_to(self, width: int) -> "PredictionRequest":
        """Return the request without the columns from `width` on, which none of its positions attends to."""
        names = ("sequences", "attention_mask", "token_type_ids", "blocks")
        given = {name: getattr(self, name) for name in names}
        cut = {name: each[:, :width] for name, each in given.items() if each is not None}
        return replace(self, candidates=self.places, **cut)


@dataclass
class Prediction:
    """The result of one forward pass for the candidates, in row-major order.

    Args:
        logits (`torch.Tensor` of shape `(num_candidates, vocabulary)`):
            Raw scores, in float32; only those of the first candidates if they are computed in parts.
        hidden_states (`torch.Tensor` of shape `(num_candidates, hidden_size)`, *optional*):
            Final hidden states used to predict the candidates, on the device of the backbone's last layer.
        attentions (`torch.Tensor` of shape `(batch, length, length)`, *optional*):
            Attention `[query, key]` averaged over heads and the requested layers; 0 at padding.
        output (`Callable`, *optional*):
            Maps hidden states to logits, if the logits of some candidates are not computed yet.
        part_size (`int`, *optional*):
            Candidates in a part; with `output`.
    """

    logits: torch.Tensor
    hidden_states: torch.Tensor | None
    attentions: torch.Tensor | None = None
    output: Callable[[torch.Tensor], torch.Tensor] | None = None
    part_size: int | None = None

    @torch.no_grad()
    def parts(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the logits of all candidates in parts, each with its slice; each part only once."""
        start = len(self.logits)
        logits, self.logits = self.logits, self.logits[:0]
        if start or self.output is None:
            yield slice(0, start), logits
        # The first part is no longer needed when the next one is computed.
        del logits
        if self.output is None or self.hidden_states is None or self.part_size is None:
            return
        for place in range(start, len(self.hidden_states), self.part_size):
            part = slice(place, min(place + self.part_size, len(self.hidden_states)))
            yield part, self.output(self.hidden_states[part])


@dataclass
class RowPredictions(Prediction):
    """The predictions of several forwards with one row each; a part never holds candidates of two rows.

    Args:
        rows (`list[Prediction]`):
            The predictions, in the order of the rows.
    """

    rows: list[Prediction] = field(default_factory=list)

    @torch.no_grad()
    def parts(self) -> Iterator[tuple[slice, torch.Tensor]]:
        start = 0
        for row in self.rows:
            end = start
            for part, logits in row.parts():
                end = start + part.stop
                yield slice(start + part.start, end), logits
            start = end


def joined_rows(predictions: list[Prediction], part_size: int | None) -> Prediction:
    """Return the predictions of several forwards with one row each as one prediction.

    Args:
        predictions (`list[Prediction]`):
            What was predicted for each row, at least one.
        part_size (`int`, *optional*):
            That of the requests; without one the logits of all rows are put together.
    """
    kept = [prediction.hidden_states for prediction in predictions if prediction.hidden_states is not None]
    states = torch.cat(kept) if kept else None
    if part_size is not None:
        return RowPredictions(predictions[0].logits[:0], states, rows=predictions)
    return Prediction(torch.cat([prediction.logits for prediction in predictions]), states)


def joined_parts(parts: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Return values that were computed part by part for all candidates; those of a single part are not copied."""
    return parts[0] if len(parts) == 1 else [torch.cat(values) for values in zip(*parts, strict=True)]


class StatesGather:
    """A forward hook that keeps the requested positions of the final states, as a batch of one row.

    Everything that follows in the model, a linear layer or a whole prediction head, sees these only.

    Args:
        rows (`torch.LongTensor` of shape `(num_candidates,)`):
            Batch row of each state to keep.
        columns (`torch.LongTensor` of shape `(num_candidates,)`):
            Its column.
        part_size (`int`, *optional*):
            Let the model continue with this many of them only.
    """

    def __init__(self, rows: torch.Tensor, columns: torch.Tensor, part_size: int | None = None):
        self.rows, self.columns, self.part_size = rows, columns, part_size
        self.states = torch.empty(0)
        # Another thread may run the same model with its own hook.
        self.thread = threading.get_ident()

    def __call__(self, module: torch.nn.Module, inputs: tuple, output: Any) -> Any:
        if threading.get_ident() != self.thread:
            return output
        states = output if isinstance(output, torch.Tensor) else output[0]
        self.states = states[self.rows.to(states.device), self.columns.to(states.device)]
        # The states of the other positions are no longer needed.
        self._output = _with_states(output, self.states[:0])
        return self.returned(self.states[: self.part_size])

    def returned(self, states: torch.Tensor) -> Any:
        """Return the module's output with these states instead of its own."""
        return _with_states(self._output, states[None])


def _with_states(output: Any, states: torch.Tensor) -> Any:
    if isinstance(output, torch.Tensor):
        return states
    if isinstance(output, tuple):
        return (states, *output[1:])
    output["last_hidden_state"] = states
    return output


@contextmanager
def replaced_forward(module: torch.nn.Module, forward: Callable) -> Iterator[None]:
    """Let a module run another forward in this thread; its hooks still run around it.

    Threads that replace forwards take turns, so that each one restores the original; other threads do not wait.
    """
    with _TURN:
        own, usual, thread = vars(module).get("forward"), module.forward, threading.get_ident()

        def chosen(*args: Any, **kwargs: Any) -> Any:
            return (forward if threading.get_ident() == thread else usual)(*args, **kwargs)

        module.forward = chosen
        try:
            yield
        finally:
            if own is None:
                del module.forward
            else:
                module.forward = own


def has_forward_of_its_own(module: torch.nn.Module) -> bool:
    """Return whether the forward of a module was replaced permanently, as accelerate does to move weights."""
    with _TURN:
        return "forward" in vars(module)
