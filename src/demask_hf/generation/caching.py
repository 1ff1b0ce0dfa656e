"""Keys and values that are kept: the approximate and the exact forwards of `generate(block_cache=...)`."""

import dataclasses
from collections import defaultdict
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ..backbones.backbone import Backbone
from ..backbones.block_cache import BlockCache
from ..backbones.prediction import Prediction, PredictionRequest, joined_rows
from ..functional.candidates import CandidateIndex
from ..strategies import DecodingSettings, UnmaskingStrategy
from .blocks import BlockLayout
from .combinations import looks_everywhere
from .configuration import DemaskGenerationConfig
from .state import DecodingState


# What a full forward computes: whole rows (up to a block of each, for an exact cache), or the last blocks of each.
_WHOLE, _LATER = 0, -1


@dataclass
class _Row:
    """A row's block, the columns of its short forwards, and its forwards since the last full one.

    `num_kept` is the number of columns whose keys and values do not change any more, and are stored.
    """

    block: int = -1
    window: tuple[int, int] = (0, 0)
    age: int = 0
    is_full: bool = True
    num_kept: int = 0


@dataclass
class CachedForward:
    """The model's forward, in which each row keeps keys and values from its last full forward.

    A row has a full forward when it enters a block, after `refresh_interval` forwards, and when positions outside its
    block are requested; otherwise it has a short one, which computes the columns of its window only. The window starts
    at the first masked position of the block as it was entered (one earlier for a model whose output at position `i -
    1` predicts position `i`, so that this position can be predicted too) and ends with the sequence ("prefix") or with
    the block ("dual") (Fast-dLLM, arXiv 2505.22618).

    In a model with block-causal attention keys and values of a finished block never change, and keeping them is exact
    ("exact"). A row has a full forward after it finished a block (or has a prompt of at least one): it computes the
    columns whose keys and values are not stored yet, and those of the new block. Other forwards compute the block.

    Rows whose forwards have different widths run separately, so a row's result is that of the row alone.

    Args:
        backbone ([`Backbone`]):
            The model.
        kind (`str`):
            "prefix", "dual" or "exact".
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
        layout ([`BlockLayout`], *optional*):
            The blocks of the rows, for "exact".
    """

    backbone: Backbone
    kind: str
    refresh_interval: int | None
    commits_first: bool
    prompt_length: int
    block_length: int
    first_real: list[int]
    length: int
    layout: BlockLayout | None = None
    entered: list[int] = field(init=False, default_factory=list)
    #: These models have none.
    canvas: ClassVar[None] = None

    @classmethod
    def of(
        cls, backbone: Backbone, settings: DecodingSettings, state: DecodingState, layout: BlockLayout | None = None
    ) -> "CachedForward | None":
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
            layout=layout,
        )

    def __post_init__(self):
        self._rows = [_Row() for _ in self.first_real]
        num_columns = None if self.layout is None else self.length
        counts = [1] * len(self._rows) if self.is_rowwise else [len(self._rows)]
        self._caches = [BlockCache(count, num_columns) for count in counts]

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
            if self.layout is not None:
                self._plan_exactly(number, self.layout, first, last)
                continue
            own, block = number % len(self._rows), max((first - self.prompt_length) // self.block_length, 0)
            row = self._rows[own]
            is_entry = block != row.block
            if is_entry:
                self.entered.append(number)
                row.block, row.window = block, self._window(block, first, self.first_real[own])
            is_due = self.refresh_interval is not None and row.age >= self.refresh_interval
            row.is_full = is_entry or is_due or last >= row.window[1]
            row.age = 1 if row.is_full else row.age + 1

    def _plan_exactly(self, number: int, layout: BlockLayout, first: int, last: int) -> None:
        """Decide what a row computes of the block of its first candidate, up to the end of that of its last one."""
        if number >= len(self._rows):
            # A version is in the block of its row, which was planned before.
            return
        row, origin = self._rows[number], self.first_real[number] if self.is_rowwise else 0
        start, end = max(layout.start(number, first), origin), layout.end(number, last)
        row.is_full = row.num_kept < start
        row.window, row.num_kept = (max(row.num_kept, origin) if row.is_full else start, end), start

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
            groups[place if self.is_rowwise else 0, self._kind(row)].append(place)
        parts: list[tuple[torch.Tensor | None, Prediction]] = []
        places, device = request.places, request.sequences.device
        for (_, kind), members in groups.items():
            chosen, asked, order = _sent(members, device), places, None
            if len(groups) > 1:
                ranks = torch.full((len(rows),), -1, device=device)
                ranks[chosen] = torch.arange(len(members), device=device)
                order = (ranks[places[0]] >= 0).nonzero().squeeze(-1)
                asked = (ranks[places[0][order]], places[1][order])
            is_kept = not (is_probe and kind == _WHOLE)
            part = dataclasses.replace(
                request,
                sequences=request.sequences[chosen],
                candidates=asked,
                attention_mask=None if request.attention_mask is None else request.attention_mask[chosen],
                cache=self._placed([rows[place] for place in members], kind, device) if is_kept else None,
                blocks=None if request.blocks is None else request.blocks[chosen],
            )
            parts.append((order, self.backbone.predict(part)))
        if self.layout is not None:
            for row in (self._rows[number] for number in rows):
                # What was computed up to the block is stored: probes of this step compute the block only.
                row.is_full, row.window = False, (max(row.window[0], row.num_kept), row.window[1])
        if len(parts) == 1:
            return parts[0][1]
        if self.is_rowwise:
            return joined_rows([prediction for _, prediction in parts], request.part_size)
        return _merged(
            [prediction for _, prediction in parts], torch.cat([order for order, _ in parts if order is not None])
        )

    def _kind(self, row: _Row) -> int:
        """Return what rows must have in common to run together: the width of a short forward, or how a full one is."""
        if not row.is_full:
            return row.window[1] - row.window[0]
        # Prompts do not wait for shorter ones, but blocks that are stored do not wait for prompts.
        return _WHOLE if self.layout is None or row.window[0] == 0 else _LATER

    def _placed(self, rows: list[int], kind: int, device: torch.device) -> BlockCache:
        """Return the cache, set to the rows and columns of the next forward."""
        windows, cache, places = [self._rows[row].window for row in rows], self._caches[0], rows
        width = max(end - start for start, end in windows)
        # In a full forward the row with most columns to compute determines how many are computed of all.
        starts = [max(end - width, 0) if kind in (_WHOLE, _LATER) else start for start, end in windows]
        if self.is_rowwise:
            # The only row of its cache, without its padding.
            cache, starts, places = self._caches[rows[0]], [windows[0][0] - self.first_real[rows[0]]], [0]
        cache.rows, cache.columns = _sent(places, device), None
        cache.keeps_columns = kind in (_WHOLE, _LATER)
        if kind != _WHOLE or self.layout is not None:
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


def chosen_cache(backbone: Backbone, rule: UnmaskingStrategy, config: DemaskGenerationConfig) -> str:
    """Return the cache of a call: unless the caller chose, an exact one where the model and the rule allow it."""
    is_exact = backbone.quirks.is_block_causal and supports_cache(backbone) and not looks_everywhere(rule)
    return "exact" if is_exact and "block_cache" not in config._asked else config.block_cache or "none"


def supports_cache(backbone: Backbone) -> bool:
    """Return whether a model's attention combines computed columns with stored ones, as that of native models does."""
    return bool(getattr(backbone.states_module, "_supports_block_cache", False))


def check_can_cache(backbone: Backbone, config: DemaskGenerationConfig) -> None:
    """Refuse a cache for a model whose attention does not support one.

    Raises:
        ValueError: if the model is not a native one, or the cache is not one for its attention.
    """
    kind, model = config.block_cache or "none", type(backbone.model).__name__
    if kind == "none":
        return
    if not supports_cache(backbone):
        raise ValueError(
            f"`block_cache` must be 'none' for a {model}, got {kind!r}: the native models "
            "(Dream, LLaDA, A2D, SDAR) can keep keys and values, other models cannot."
        )
    is_exact = backbone.quirks.is_block_causal
    if (kind == "exact") != is_exact:
        kinds = "'none' or 'exact'" if is_exact else "'none', 'prefix' or 'dual'"
        reason = "do not change once a block is finished" if is_exact else "change with every token"
        raise ValueError(f"`block_cache` must be {kinds} for a {model}, got {kind!r}: its keys and values {reason}.")
    if is_exact and config.cache_commits_first:
        raise ValueError("`cache_commits_first` must be False with `block_cache='exact'`, got True.")
