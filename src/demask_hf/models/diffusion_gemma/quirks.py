"""What a loaded DiffusionGemma says about itself: its canvas, and the id that marks open positions."""

from dataclasses import replace
from typing import Any

import torch

from ...backbones.quirks import BackboneQuirks


def canvas_quirks(
    model: torch.nn.Module, quirks: BackboneQuirks, mask_token_id: int | None, logits_shift: int | None
) -> BackboneQuirks:
    """Return the quirks of a model with canvases.

    Args:
        model (`torch.nn.Module`):
            The model.
        quirks ([`BackboneQuirks`]):
            Those of its `model_type`.
        mask_token_id (`int`, *optional*):
            What the caller of `attach` gives; must be `None`.
        logits_shift (`int`, *optional*):
            Likewise.

    Raises:
        ValueError: if the model has no decoder with an output layer, or the caller names a mask token or a shift.
    """
    name = type(model).__name__
    config: Any = model.config
    if not hasattr(model, "lm_head") or not hasattr(getattr(model, "model", None), "decoder"):
        raise ValueError(f"`model` must be a DiffusionGemmaForBlockDiffusion, got {name}.")
    for argument, given in (("mask_token_id", mask_token_id), ("logits_shift", logits_shift)):
        if given is not None:
            raise ValueError(
                f"`{argument}` must be None for a {name}, whose open positions hold noise, got {given!r}."
            )
    vocab_size = config.get_text_config().vocab_size
    return replace(quirks, mask_token_id=vocab_size, block_length=config.canvas_length)
