"""DiffusionGemma as the loop sees it: an encoder reads the text before a canvas, a decoder predicts the canvas."""

import copy
import threading
from typing import Any

import torch
from transformers import Cache, DynamicCache

from .backbone import Backbone, text_config


class CanvasModel:
    """The two halves of a model with canvases, and the cache between them.

    The encoder keeps keys and values of the text before the canvas; the decoder reads them, and the canvas, in both
    directions. As in transformers, positions are counted by column, left padding included.

    Args:
        backbone ([`Backbone`]):
            The model, a `DiffusionGemmaForBlockDiffusion`.
        attention_mask (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            `False` at left padding.
    """

    def __init__(self, backbone: Backbone, attention_mask: torch.Tensor | None = None):
        self.backbone, self.attention_mask = backbone, attention_mask
        self.model: Any = backbone.model
        self.cache: Cache = DynamicCache(config=text_config(backbone.model))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the logits that the decoder is conditioned on."""
        return self.model.model.decoder.embed_tokens.weight.dtype

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return text_config(self.model).vocab_size

    @torch.no_grad()
    def encode(self, tokens: torch.Tensor) -> None:
        """Read the next columns of the text.

        Args:
            tokens (`torch.LongTensor` of shape `(batch, columns)`):
                Token ids, without noise.
        """
        start = self.cache.get_seq_length()
        positions = self._positions(start, tokens)
        seen = torch.ones_like(tokens, dtype=torch.bool)
        if self.attention_mask is not None:
            seen = self.attention_mask[:, : start + tokens.shape[1]]
        elif start:
            seen = torch.nn.functional.pad(seen, (start, 0), value=True)
        encoder, cache = self.model.model.encoder, {self.backbone.cache_argument: self.cache}
        masks = encoder.create_masks_for_generate(
            config=self.model.config,
            # Only shape, precision and device are read of it.
            inputs_embeds=torch.empty((*tokens.shape, 0), dtype=self.model.dtype, device=tokens.device),
            attention_mask=seen,
            position_ids=positions,
            **cache,
        )
        encoder(input_ids=tokens, attention_mask=masks, position_ids=positions, **cache)

    @torch.no_grad()
    def decode(
        self,
        tokens: torch.Tensor,
        conditioning: torch.Tensor | None = None,
        is_conditioned: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict a canvas after the text that was read; nothing is kept.

        Args:
            tokens (`torch.LongTensor` of shape `(canvases, canvas_length)`):
                Token ids, noise included.
            conditioning (`torch.Tensor` of shape `(canvases, canvas_length, vocabulary)`, *optional*):
                Logits of the step before.
            is_conditioned (`torch.BoolTensor` of shape `(canvases,)`, *optional*):
                Which canvases are conditioned on them; by default all.
            rows (`torch.LongTensor` of shape `(canvases,)`, *optional*):
                Batch row of each canvas; by default there is one for each row.

        Returns:
            `tuple`: logits of shape `(canvases, canvas_length, vocabulary)`, float32, after soft-capping; and the
            states after the final norm that the output layer reads, `(canvases, canvas_length, hidden_size)`.
        """
        start, decoder = self.cache.get_seq_length(), self.model.model.decoder
        seen = tokens.new_ones((len(tokens), start), dtype=torch.bool)
        if self.attention_mask is not None:
            seen = self.attention_mask[:, :start] if rows is None else self.attention_mask[rows, :start]
        cache = {self.backbone.cache_argument: self.cache if rows is None else _of_rows(self.cache, rows)}
        masks = decoder.create_diffusion_decoder_attention_mask(
            config=self.model.config,
            inputs_embeds=tokens.unsqueeze(-1),
            decoder_attention_mask=torch.nn.functional.pad(seen, (0, tokens.shape[1]), value=True),
            **cache,
        )
        states: list[torch.Tensor] = []
        thread = threading.get_ident()

        def keep(module: torch.nn.Module, inputs: tuple, output: Any) -> None:
            # Another thread may run the same model.
            if threading.get_ident() == thread:
                states.append(output.last_hidden_state)

        handle = decoder.register_forward_hook(keep)
        try:
            outputs = self.model(
                decoder_input_ids=tokens,
                self_conditioning_logits=conditioning,
                self_conditioning_mask=is_conditioned,
                decoder_attention_mask=masks,
                decoder_position_ids=self._positions(start, tokens),
                **cache,
            )
        finally:
            handle.remove()
        return outputs.logits.to(tokens.device), states[0]

    def _positions(self, start: int, tokens: torch.Tensor) -> torch.Tensor:
        return torch.arange(start, start + tokens.shape[1], dtype=torch.int32, device=tokens.device).unsqueeze(0)


def _of_rows(cache: Cache, rows: torch.Tensor) -> Cache:
    """Return a copy of a cache that holds these rows of the batch."""
    chosen = copy.copy(cache)
    chosen.layers = []
    for layer in cache.layers:
        own: Any = copy.copy(layer)
        own.keys, own.values = (tensor[rows.to(tensor.device)] for tensor in (own.keys, own.values))
        chosen.layers.append(own)
    return chosen
