"""Add our `generate` to a model that is already loaded."""

import functools
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging

from ..backbones.backbone import Backbone
from ..backbones.quirks import BackboneQuirks, is_declared, quirks_of
from ..generation.adapters import check_method
from ..generation.configuration import DemaskGenerationConfig
from ..generation.mixin import DemaskGenerationMixin
from ..head.modeling_demask import DemaskHead
from .diffusion_gemma.quirks import canvas_quirks
from .probing import BLOCKWISE_TYPES, causal_block_length, holds, is_causal


logger = logging.get_logger(__name__)


def attach(
    model: torch.nn.Module,
    head: DemaskHead | None = None,
    *,
    mask_token_id: int | None = None,
    logits_shift: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> torch.nn.Module:
    """Add our `generate`, and optionally a head, to a model that is already loaded.

    The model's class becomes a subclass of its own class and [`DemaskGenerationMixin`]; weights are not touched.
    A PEFT model is changed inside and stays a PEFT model.

    Transformers models of a class that is no masked language model of transformers are run on three short rows, to
    see whether their first logits depend on the last token, and on two or three of up to 128 tokens, to see whether
    all do. For a `model_type` that nobody declared, short rows show whether the output layer may be applied to chosen
    positions only.

    Args:
        model (`torch.nn.Module`):
            A masked language model whose forward takes `input_ids` and returns `logits`.
        head ([`DemaskHead`], *optional*):
            Dependency head made for it.
        mask_token_id (`int`, *optional*):
            Id of the mask token; by default that of the model's config, or else the tokenizer's. If these two differ,
            a warning says so once.
        logits_shift (`int`, *optional*):
            1 if the output at position `i - 1` predicts position `i`, else 0; by default the declared value of the
            `model_type`, else 0.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Provides the mask token, and for models like BERT the special tokens that are kept.

    Returns:
        `torch.nn.Module`: the same object.

    Raises:
        ValueError: if the model is autoregressive, from token to token or from block to block, no mask token is known,
            the shift is neither 0 nor 1, the head does not fit, or a PEFT method around the model adds virtual tokens.

    Example:

    ```python
    >>> from transformers import AutoModelForMaskedLM, AutoTokenizer
    >>> import demask_hf

    >>> tokenizer = AutoTokenizer.from_pretrained("answerdotai/ModernBERT-base")  # doctest: +SKIP
    >>> model = AutoModelForMaskedLM.from_pretrained("answerdotai/ModernBERT-base")  # doctest: +SKIP
    >>> model = demask_hf.attach(model, tokenizer=tokenizer)  # doctest: +SKIP
    >>> inputs = tokenizer("The capital of France is [MASK][MASK].", return_tensors="pt")  # doctest: +SKIP
    >>> model.generate(**inputs, max_new_tokens=0)  # doctest: +SKIP

    ```
    """
    inner = _unwrapped(model)
    inner.__dict__["_demask_quirks"] = _quirks(inner, mask_token_id, logits_shift, tokenizer)
    Backbone.of(inner, getattr(getattr(inner, "generation_config", None), "mask_token_id", None))
    if not isinstance(inner, DemaskGenerationMixin):
        base: Any = type(inner)
        inner.__class__ = _attached_class(base)
        if isinstance(inner, PreTrainedModel) and getattr(inner, "generation_config", None) is None:
            inner.generation_config = DemaskGenerationConfig()
    if head is not None:
        inner.set_demask_head(head)
    return model


def _quirks(
    model: torch.nn.Module,
    mask_token_id: int | None,
    logits_shift: int | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> BackboneQuirks:
    """Return the quirks of a model with what the caller of `attach` says, after a look at the model."""
    quirks = quirks_of(model)
    if quirks.noise == "uniform":
        return canvas_quirks(model, quirks, mask_token_id, logits_shift)
    if logits_shift is not None:
        quirks = replace(quirks, logits_shift=logits_shift)
    quirks = _with_tokens(quirks, model, mask_token_id, tokenizer)
    if isinstance(model, PreTrainedModel) and not isinstance(model, DemaskGenerationMixin):
        quirks = _examined(model, quirks)
    return quirks


def _unwrapped(model: Any) -> Any:
    """Return the model that PEFT wrapped, or the model itself."""
    if not (hasattr(model, "peft_config") and hasattr(model, "get_base_model")):
        return model
    for config in model.peft_config.values():
        check_method(config)
    return model.get_base_model()


@functools.cache
def _attached_class(base: Any) -> Any:
    """Return the subclass of a model's class with our `generate`, the same one whenever it is asked for."""
    # The `__module__` of the class determines how transformers saves the model.
    fields = {"__module__": base.__module__, "__reduce_ex__": _reduced}
    return type(base.__name__, (DemaskGenerationMixin, base), fields)


def _reduced(model: Any, protocol: int) -> tuple[Any, ...]:
    """Return what `pickle` and `copy` need: the class is found by name only without our part."""
    return _rebuilt, (type(model).__bases__[1],), object.__reduce_ex__(model, 2)[2]


def _rebuilt(base: Any) -> Any:
    """Return an empty model of an attached class, for `pickle` to fill."""
    attached = _attached_class(base)
    return attached.__new__(attached)


def warn_of_another_mask(config: Any, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Say once that a model's config and its tokenizer name different mask tokens."""
    ours, theirs = getattr(config, "mask_token_id", None), getattr(tokenizer, "mask_token_id", None)
    if ours is not None and theirs is not None and ours != theirs:
        logger.warning_once(
            f"The config says that the mask token is {ours}, the tokenizer that it is {theirs}; {ours} is used. "
            "`mask_token_id` of the config or of `demask_hf.attach` chooses."
        )


def _with_tokens(
    quirks: BackboneQuirks,
    model: torch.nn.Module,
    mask_token_id: int | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> BackboneQuirks:
    """Return the quirks with the special tokens of the caller, the config or the tokenizer."""
    config = getattr(model, "config", None)
    source = config if tokenizer is None else tokenizer
    if mask_token_id is None:
        warn_of_another_mask(config, tokenizer)
    if mask_token_id is None and getattr(config, "mask_token_id", None) is None and tokenizer is not None:
        mask_token_id = tokenizer.mask_token_id
    if mask_token_id is not None:
        quirks = replace(quirks, mask_token_id=mask_token_id)
    if not quirks.keeps_special_tokens:
        return quirks
    names = ("sep_token_id", "eos_token_id", "cls_token_id", "bos_token_id", "pad_token_id", "unk_token_id")
    ids = [getattr(source, name, None) for name in names]
    known = [token for token in ids if isinstance(token, int)]
    closing = next((token for token in ids[:2] if isinstance(token, int)), None)
    return replace(quirks, closing_token_id=closing, special_token_ids=tuple(sorted(set(known))))


def _examined(model: PreTrainedModel, quirks: BackboneQuirks) -> BackboneQuirks:
    """Refuse an autoregressive model; return the quirks, without `states` if they do not apply."""
    name = type(model).__name__
    refusal = f"`model` must be a masked language model, got {name}: this model is"
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{refusal} an encoder with a decoder, which writes its answer separately from the prompt.")
    is_known = name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()
    if getattr(model.config, "is_decoder", False):
        raise ValueError(f"{refusal} autoregressive, its config has `is_decoder=True`.")
    block_length = BLOCKWISE_TYPES.get(getattr(model.config, "model_type", ""))
    is_said = (is_known and is_declared(model)) or quirks.is_block_causal
    if block_length is None and (is_said or model.device.type == "meta"):
        return quirks
    if block_length is None and not is_known:
        if is_causal(model):
            raise ValueError(f"{refusal} autoregressive, because its first logits do not depend on the last token.")
        block_length = causal_block_length(model)
    if block_length is not None:
        raise ValueError(
            f"`model` must attend in both directions, got {name}: its attention is causal between blocks of "
            f"{block_length} tokens, which only native models and `block_alignment` of declared quirks decode."
        )
    return quirks if is_declared(model) or holds(model, quirks) else replace(quirks, states=None)
