"""Cache of `generate(block_cache=...)`: keys and values of whole rows, of which a forward computes some columns."""

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class BlockCacheLayer(CacheLayerMixin):
    """Keys and values of whole rows; a forward may compute some columns.

    What a forward of some columns computes is combined with the stored ones in a copy. It replaces them only if the
    cache says so, so that probes, and forwards of a block that the next one computes again, leave no trace.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = key_states, value_states
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, cache: "BlockCache"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store whole rows, or combine computed columns with the stored ones.

        Args:
            key_states (`torch.Tensor` of shape `(rows, heads, columns, head_size)`):
                Keys, rotated.
            value_states (`torch.Tensor` of the same shape):
                Values.
            cache ([`BlockCache`]):
                Says which rows and columns these are.

        Returns:
            Keys and values of shape `(rows, heads, length, head_size)`.
        """
        rows = cache.rows.to(key_states.device)
        if not self.is_initialized:
            num_columns = cache.num_columns or key_states.shape[2]
            shapes = (
                (cache.num_rows, each.shape[1], num_columns, each.shape[3]) for each in (key_states, value_states)
            )
            # What is not computed yet is masked, and must be finite.
            self.lazy_initialization(*(key_states.new_zeros(shape) for shape in shapes))
        if cache.columns is None:
            self.keys[rows], self.values[rows] = key_states, value_states
            return key_states, value_states
        index = cache.columns.to(key_states.device)[:, None, :, None]
        combined = []
        for stored, states in ((self.keys, key_states), (self.values, value_states)):
            whole = stored[:, :, : cache.length][rows].scatter_(2, index.expand_as(states), states)
            if cache.keeps_columns:
                stored[rows, :, : whole.shape[2]] = whole
            combined.append(whole)
        return combined[0], combined[1]

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
        num_columns (`int`, *optional*):
            Columns to keep; by default those of the first forward, which then computes whole rows.

    Attributes:
        rows (`torch.LongTensor` of shape `(rows,)`):
            Batch row of each row of the next forward.
        columns (`torch.LongTensor` of shape `(rows, columns)`, *optional*):
            Columns that it computes; `None` for whole rows, which are stored.
        keeps_columns (`bool`):
            Whether these columns are stored, too.
        length (`int`, *optional*):
            Columns that it may attend to; `None` for all.
    """

    def __init__(self, num_rows: int, num_columns: int | None = None):
        super().__init__(layer_class_to_replicate=BlockCacheLayer)
        self.num_rows, self.num_columns = num_rows, num_columns
        self.rows = torch.empty(0, dtype=torch.long)
        self.columns: torch.Tensor | None = None
        self.keeps_columns = False
        self.length: int | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any):
        return super().update(key_states, value_states, layer_idx, self)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of stored keys that the next forward uses: none if it computes whole rows."""
        if self.columns is None or layer_idx >= len(self.layers):
            return 0
        layer = self.layers[layer_idx]
        return self.length or (layer.keys.shape[2] if isinstance(layer, BlockCacheLayer) else 0)

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return the number of keys that the next forward attends to: those of whole rows in any case; and 0."""
        return self.get_seq_length(layer_idx) or query_length, 0
