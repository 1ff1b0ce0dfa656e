"""Keys and values that are kept within a block: the approximate forwards of `generate(block_cache=...)`."""

import dataclasses
from collections import defaultdict
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from ..backbones.backbone import Backbone
from ..backbones.prediction import Prediction, PredictionRequest, joined_rows
from ..functional.candidates import CandidateIndex
from ..strategies import DecodingSettings
from .state import DecodingState


class BlockCacheLayer(CacheLayerMixin):
    """Keys and values of whole rows; a forward may replace some columns.

    The columns that a short forward replaces are not kept, because every forward recomputes the block until the next
    full one. The replacement is made in a copy, so probes leave no trace.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = key_states, value_states
        self.is_initialized = True

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        rows: torch.Tensor,
        columns: torch.Tensor | None,
        num_rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store whole rows, or combine computed columns with the stored ones.

        Args:
            key_states (`torch.Tensor` of shape `(rows, heads, columns, head_size)`):
                Keys, rotated.
            value_states (`torch.Tensor` of the same shape):
                Values.
            rows (`torch.LongTensor` of shape `(rows,)`):
                Batch row of each one.
            columns (`torch.LongTensor` of shape `(rows, columns)`, *optional*):
                Column of each one; `None` for whole rows, which are stored.
            num_rows (`int`):
                Number of rows of the batch.

        Returns:
            Keys and values of shape `(rows, heads, length, head_size)`.
        """
        rows = rows.to(key_states.device)
        if columns is None:
            if not self.is_initialized:
                shape = (num_rows, *key_states.shape[1:])
                self.lazy_initialization(key_states.new_empty(shape), value_states.new_empty(shape))
            self.keys[rows], self.values[rows] = key_states, value_states
            return key_states, value_states
        index = columns.to(key_states.device)[:, None, :, None].expand_as(key_states)
        keys, values = self.keys[rows], self.values[rows]
        return keys.scatter_(2, index, key_states), values.scatter_(2, index, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        # The cache itself is asked, which knows the columns.
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class BlockCache(Cache):
    """The layers' keys and values, and which part of them the next forward computes.

    Args:
        num_rows (`int`):
            Number of rows of the batch.
    """

    def __init__(self, num_rows: int):
        super().__init__(layer_class_to_replicate=BlockCacheLayer)
        self.num_rows = num_rows
        self.rows: torch.Tensor | None = None
        self.columns: torch.Tensor | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs):
        return super().update(key_states, value_states, layer_idx, self.rows, self.columns, self.num_rows)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of stored keys that the next forward uses: none if it computes whole rows."""
        layer = self.layers[layer_idx] if self.columns is not None else None
        return layer.keys.shape[2] if isinstance(layer, BlockCacheLayer) else 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return the number of keys that the next forward attends to: those of whole rows in any case; and 0."""
        return self.get_seq_length(layer_idx) or query_length, 0


@dataclass
class _Row:
    """A row's block, the columns of its short forwards, and its forwards since the last full one."""

    block: int = -1
    window: tuple[int, int] = (0, 0)
    age: int = 0
    is_full: bool = True


@dataclass
class CachedForward:
    """The model's forward, in which each row keeps keys and values from its last full forward.

    A row has a full forward when it enters a block, after `refresh_interval` forwards, and when positions outside its
    block are requested; otherwise it has a short one, which computes the columns of its window only. The window starts
    at the first masked position of the block as it was entered (one earlier for a model whose output at position `i -
    1` predicts position `i`, so that this position can be predicted too) and ends with the sequence ("prefix") or with
    the block ("dual") (Fast-dLLM, arXiv 2505.22618).

    Rows whose forwards have different widths run separately, so a row's result is that of the row alone.

    Args:
        backbone ([`Backbone`]):
            The model.
        kind (`str`):
            "prefix" or "dual".
        refresh_interval (`int`, *optional*):
            Forwards from one full forward to the next; `None`: only at the start of each block.
        commits_first (`bool`):
            Exclude the position before the block from the window: short forwards then cannot predict the first
            position of the block, which must be written after the full one, as in Fast-dLLM's code for Dream.
        prompt_length (`int`):
            Columns before the answer.
        block_length (`int`):
            Tokens in a block.
        first_real (`list[int]`):
            First column of each row that is not padding.
        length (`int`):
            Number of columns.
    """

    backbone: Backbone
    kind: str
    refresh_interval: int | None
    commits_first: bool
    prompt_length: int
    block_length: int
    first_real: list[int]
    length: int
    entered: list[int] = field(init=False, default_factory=list)
    #: These models have none.
    canvas: ClassVar[None] = None

    @classmethod
    def of(cls, backbone: Backbone, settings: DecodingSettings, state: DecodingState) -> "CachedForward | None":
        """Return the empty cache for these settings; `None` if they use none."""
        if settings.block_cache == "none":
            return None
        mask = state.attention_mask
        return cls(
            backbone=backbone,
            kind=settings.block_cache,
            refresh_interval=settings.cache_refresh_interval,
            commits_first=settings.cache_commits_first,
            prompt_length=settings.prompt_length,
            block_length=settings.block_length,
            first_real=[0] * len(state.sequences) if mask is None else mask.argmax(dim=-1).tolist(),
            length=state.sequences.shape[1],
        )

    def __post_init__(self):
        self._rows = [_Row() for _ in self.first_real]
        self._caches = [BlockCache(1) for _ in self._rows] if self.is_rowwise else [BlockCache(len(self._rows))]

    @property
    def is_rowwise(self) -> bool:
        """Whether each row runs alone, and keeps keys and values of its own length."""
        return self.backbone.is_rowwise

    def plan(self, index: CandidateIndex) -> None:
        """Decide which rows have a full forward in this step; `entered` lists the rows at a new block.

        Versions of a row, which are numbered as in [`versions_of`], have short forwards with its keys and values.
        """
        self.entered = []
        for number, first, last in zip(index.host_active, index.first_columns, index.last_columns, strict=True):
            own, block = number % len(self._rows), max((first - self.prompt_length) // self.block_length, 0)
            row = self._rows[own]
            is_entry = block != row.block
            if is_entry:
                self.entered.append(number)
                row.block, row.window = block, self._window(block, first, self.first_real[own])
            is_due = self.refresh_interval is not None and row.age >= self.refresh_interval
            row.is_full = is_entry or is_due or last >= row.window[1]
            row.age = 1 if row.is_full else row.age + 1

    def _window(self, block: int, first: int, first_real: int) -> tuple[int, int]:
        shift = 0 if self.commits_first else self.backbone.quirks.logits_shift
        block_end = self.prompt_length + (block + 1) * self.block_length
        return max(first - shift, first_real), min(block_end, self.length) if self.kind == "dual" else self.length

    def predict(self, request: PredictionRequest, rows: list[int], is_probe: bool = False) -> Prediction:
        """Run the forwards of a step and return what they predict for the candidates, in the order of the request.

        Args:
            request ([`PredictionRequest`]):
                Sequences and the requested places, row-major.
            rows (`list[int]`):
                Batch row of each sequence, or number of the version of one.
            is_probe (`bool`, *optional*, defaults to `False`):
                Keep nothing; rows of a full forward are then computed without the cache.
        """
        rows = [number % len(self._rows) for number in rows]
        groups = defaultdict(list)
        for place, number in enumerate(rows):
            row = self._rows[number]
            width = 0 if row.is_full else row.window[1] - row.window[0]
            groups[place if self.is_rowwise else 0, width].append(place)
        parts: list[tuple[torch.Tensor | None, Prediction]] = []
        places, device = request.places, request.sequences.device
        for (_, width), members in groups.items():
            chosen, asked, order = _sent(members, device), places, None
            if len(groups) > 1:
                ranks = torch.full((len(rows),), -1, device=device)
                ranks[chosen] = torch.arange(len(members), device=device)
                order = (ranks[places[0]] >= 0).nonzero().squeeze(-1)
                asked = (ranks[places[0][order]], places[1][order])
            is_kept = not (is_probe and width == 0)
            part = dataclasses.replace(
                request,
                sequences=request.sequences[chosen],
                candidates=asked,
                attention_mask=None if request.attention_mask is None else request.attention_mask[chosen],
                cache=self._placed([rows[place] for place in members], width, device) if is_kept else None,
            )
            parts.append((order, self.backbone.predict(part)))
        if len(parts) == 1:
            return parts[0][1]
        if self.is_rowwise:
            return joined_rows([prediction for _, prediction in parts], request.part_size)
        return _merged(
            [prediction for _, prediction in parts], torch.cat([order for order, _ in parts if order is not None])
        )

    def _placed(self, rows: list[int], width: int, device: torch.device) -> BlockCache:
        """Return the cache, set to the rows and columns of the next forward."""
        starts = [self._rows[row].window[0] for row in rows]
        cache = self._caches[0]
        if self.is_rowwise:
            # The only row of its cache, without its padding.
            cache, starts, rows = self._caches[rows[0]], [starts[0] - self.first_real[rows[0]]], [0]
        cache.rows, cache.columns = _sent(rows, device), None
        if width:
            cache.columns = _sent(starts, device)[:, None] + torch.arange(width, device=device)
        return cache


def _sent(numbers: list[int], device: torch.device) -> torch.Tensor:
    """Copy numbers to a device without waiting for it."""
    return torch.tensor(numbers).to(device, non_blocking=True)


def _merged(predictions: list[Prediction], places: torch.Tensor) -> Prediction:
    """Restore the order of the candidates of several forwards, given their places."""
    order = places.argsort()
    kept = [prediction.hidden_states for prediction in predictions if prediction.hidden_states is not None]
    states = torch.cat(kept) if kept else None
    if states is not None:
        states = states[order.to(states.device)]
    unfinished = next((prediction for prediction in predictions if prediction.output is not None), None)
    if unfinished is not None:
        # The forwards are split into parts differently than their union, so all logits are recomputed from the states.
        return Prediction(unfinished.logits[:0], states, None, unfinished.output, unfinished.part_size)
    return Prediction(torch.cat([prediction.logits for prediction in predictions])[order], states)


def check_can_cache(backbone: Backbone, kind: str) -> None:
    """Refuse a cache for a model whose attention does not support one.

    Raises:
        ValueError: if the model is not a native one.
    """
    if kind != "none" and not getattr(backbone.states_module, "_supports_block_cache", False):
        raise ValueError(
            f"`block_cache` must be 'none' for a {type(backbone.model).__name__}, got {kind!r}: the native models "
            "(Dream, LLaDA, A2D) can keep keys and values, other models cannot."
        )
