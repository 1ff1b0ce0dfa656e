"""Give a model that somebody else loaded our `generate`."""

from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ..backbones.backbone import Backbone
from ..backbones.prediction import PredictionRequest
from ..backbones.quirks import BackboneQuirks, is_declared, quirks_of
from ..generation.configuration import DemaskGenerationConfig
from ..generation.mixin import DemaskGenerationMixin
from ..head.modeling_demask import DemaskHead


# An effect of the last token on the first logits below this share of the effect the other way is no effect.
_CAUSAL_SHARE = 1e-3


def attach(
    model: torch.nn.Module,
    head: DemaskHead | None = None,
    *,
    mask_token_id: int | None = None,
    logits_shift: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> torch.nn.Module:
    """Give a model that somebody else loaded our `generate`, and optionally a head.

    The model's class becomes a subclass of its own class and [`DemaskGenerationMixin`]; weights are not touched.
    A PEFT model is changed inside and stays a PEFT model.

    Transformers models of a class that is no masked language model of transformers are run once on three short rows,
    to see whether their first logits depend on the last token. For a `model_type` that nobody declared, the same
    run shows whether the output layer may be applied to chosen positions only.

    Args:
        model (`torch.nn.Module`):
            A masked language model whose forward takes `input_ids` and returns `logits`.
        head ([`DemaskHead`], *optional*):
            Dependency head made for it.
        mask_token_id (`int`, *optional*):
            Id of the mask token; by default that of the model's config, or else the tokenizer's.
        logits_shift (`int`, *optional*):
            1 if the output at position `i - 1` predicts position `i`, else 0; by default what is declared for the
            `model_type`, 0 for others.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Names the mask token, and for models like BERT the special tokens that are kept.

    Returns:
        `torch.nn.Module`: the same object.

    Raises:
        ValueError: if the model is autoregressive, no mask token is known, the shift is neither 0 nor 1, or the head
            does not fit.

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
    quirks = quirks_of(inner)
    if logits_shift is not None:
        quirks = replace(quirks, logits_shift=logits_shift)
    quirks = _with_tokens(quirks, inner, mask_token_id, tokenizer)
    if isinstance(inner, PreTrainedModel) and not isinstance(inner, DemaskGenerationMixin):
        quirks = _examined(inner, quirks)
    inner.__dict__["_demask_quirks"] = quirks
    Backbone.of(inner, getattr(getattr(inner, "generation_config", None), "mask_token_id", None))
    if not isinstance(inner, DemaskGenerationMixin):
        bases = (DemaskGenerationMixin, type(inner))
        # Where the class says it is from decides how transformers saves the model.
        inner.__class__ = type(type(inner).__name__, bases, {"__module__": type(inner).__module__})
        if isinstance(inner, PreTrainedModel) and getattr(inner, "generation_config", None) is None:
            inner.generation_config = DemaskGenerationConfig()
    if head is not None:
        inner.set_demask_head(head)
    return model


def _unwrapped(model: Any) -> Any:
    """Return the model that PEFT wrapped, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def _with_tokens(
    quirks: BackboneQuirks,
    model: torch.nn.Module,
    mask_token_id: int | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> BackboneQuirks:
    """Return the quirks with the special tokens that the caller, the config or the tokenizer names."""
    config = getattr(model, "config", None)
    source = config if tokenizer is None else tokenizer
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
    """Refuse a model that decodes from left to right; return the quirks, without `states` where they do not hold."""
    name = type(model).__name__
    refusal = f"`model` must be a masked language model, got {name}: this model is"
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{refusal} an encoder with a decoder, which writes its answer beside the prompt.")
    is_known = name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()
    if getattr(model.config, "is_decoder", False):
        raise ValueError(f"{refusal} autoregressive, its config says `is_decoder=True`.")
    if (is_known and is_declared(model)) or model.device.type == "meta":
        return quirks
    ids, logits = _probe(model)
    if not is_known and _is_causal(logits):
        raise ValueError(f"{refusal} autoregressive, its first logits do not depend on the last token.")
    return quirks if is_declared(model) or _holds(model, quirks, ids, logits) else replace(quirks, states=None)


@torch.no_grad()
def _probe(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return three rows of four tokens, alike but for the last and the first token, and their logits."""
    ids = torch.tensor([[3, 4, 5, 6], [3, 4, 5, 7], [7, 4, 5, 6]], device=model.device)
    embeddings: Any = model.get_input_embeddings()
    ids = ids % embeddings.weight.shape[0]
    return ids, model(input_ids=ids).logits.float()


def _is_causal(logits: torch.Tensor) -> bool:
    """Return whether the first token moves the last logits, and the last token the first logits not."""
    backward = (logits[0, 0] - logits[1, 0]).abs().max()
    forward = (logits[0, -1] - logits[2, -1]).abs().max()
    return bool(forward > 1e-6 * logits.abs().max() and backward < _CAUSAL_SHARE * forward)


def _holds(model: PreTrainedModel, quirks: BackboneQuirks, ids: torch.Tensor, logits: torch.Tensor) -> bool:
    """Return whether the output layer gives the same logits when it sees chosen positions only."""
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
