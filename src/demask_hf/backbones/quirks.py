"""The only place with model quirks, as data: shift of the logits, where final states are, special tokens, blocks."""

from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from ..validation import check_choice


ALIGNMENTS = ("start", "answer")


@dataclass(frozen=True)
class BackboneQuirks:
    """What the loop must know about a kind of model. The defaults describe a plain masked language model.

    Args:
        logits_shift (`int`, *optional*, defaults to 0):
            0, or 1 where the output at position `i - 1` predicts the token at position `i`.
        states (`str`, *optional*):
            Dotted path of the submodule that returns the final hidden states, after the final norm. Everything after
            it is the output layer, which then sees the requested positions only. With `None` the whole model runs on
            all positions.
        counts_positions (`bool`, *optional*, defaults to `False`):
            The model computes position ids itself from its padding token, and must not be given any.
        keeps_special_tokens (`bool`, *optional*, defaults to `False`):
            The model was never trained to predict special tokens: they are never written, and a closing one such as
            [SEP] stays after the text that continues a prompt.
        block_length (`int`, *optional*):
            Default length of a block, used if neither caller nor checkpoint sets one, and without `block_alignment`
            only if it divides the answer. With an alignment, `block_size` of the model's config replaces it.
        block_alignment (`str`, *optional*):
            The attention is causal between blocks and full within one. "start": blocks are counted from the first
            token of a row; "answer": the answer begins with a block. The model then gets a mask of four dimensions.
            Nothing is meant without a block length.
        mask_token_id (`int`, *optional*):
            Id of the mask token if the model's config does not contain it.
        closing_token_id (`int`, *optional*):
            Id of the token that ends every prompt; only with `keeps_special_tokens`.
        special_token_ids (`tuple[int, ...]`, *optional*):
            Ids that are never written; only with `keeps_special_tokens`.
        noise (`str`, *optional*, defaults to `"mask"`):
            What stands at positions that are not written: "mask", the mask token, or "uniform", random tokens of the
            vocabulary. With "uniform" the id of the mask token is the size of the vocabulary: the loop marks open
            positions with it, and the model never sees it. Such a model is run as DiffusionGemma is, see
            [`CanvasModel`].

    Raises:
        ValueError: if the shift is neither 0 nor 1, or not 0 with an alignment, or the alignment or the noise is
            unknown.
    """

    logits_shift: int = 0
    states: str | None = None
    counts_positions: bool = False
    keeps_special_tokens: bool = False
    block_length: int | None = None
    block_alignment: str | None = None
    mask_token_id: int | None = None
    closing_token_id: int | None = None
    special_token_ids: tuple[int, ...] = ()
    noise: str = "mask"

    def __post_init__(self):
        check_choice("noise", self.noise, ("mask", "uniform"))
        if self.logits_shift not in (0, 1):
            raise ValueError(f"`logits_shift` must be 0 or 1, got {self.logits_shift!r}.")
        if self.block_alignment is not None:
            check_choice("block_alignment", self.block_alignment, ALIGNMENTS)
            if self.logits_shift:
                raise ValueError(
                    "`logits_shift` must be 0 with a `block_alignment`: the first token of a block would be predicted "
                    "in the block before, got 1."
                )

    @property
    def is_block_causal(self) -> bool:
        """Whether a position attends to its own block and earlier ones only."""
        return self.block_alignment is not None and self.block_length is not None


_ENCODER = BackboneQuirks(states="base_model", keeps_special_tokens=True)
_ROBERTA = BackboneQuirks(states="base_model", keeps_special_tokens=True, counts_positions=True)

_QUIRKS = {
    "Dream": BackboneQuirks(logits_shift=1, states="base_model"),
    # The public scripts of LLaDA and LLaDA-MoE decode answers in blocks of 32.
    **dict.fromkeys(("llada", "lladamoe"), BackboneQuirks(states="base_model", block_length=32)),
    "llada2_moe": BackboneQuirks(states="base_model", block_length=32, block_alignment="start"),
    "sdar": BackboneQuirks(states="base_model", block_length=4, block_alignment="start"),
    # Of block diffusion if the config has a block size, else with full attention.
    **dict.fromkeys(
        ("a2d-qwen3", "a2d-qwen2", "a2d-llama"), BackboneQuirks(states="base_model", block_alignment="answer")
    ),
    **dict.fromkeys(("albert", "bert", "distilbert", "electra", "eurobert", "modernbert"), _ENCODER),
    **dict.fromkeys(("camembert", "roberta", "xlm-roberta"), _ROBERTA),
    "diffusion_gemma": BackboneQuirks(states="model.decoder", noise="uniform"),
}


def declare_backbone(model_type: str, quirks: BackboneQuirks) -> None:
    """Declare how models with a new `model_type` are decoded.

    Args:
        model_type (`str`):
            `config.model_type` of the models; must not be declared yet.
        quirks ([`BackboneQuirks`]):
            What is special about them.

    Raises:
        ValueError: if the type is declared already.
    """
    if model_type in _QUIRKS:
        raise ValueError(f"`model_type` must not be declared yet, got {model_type!r}.")
    _QUIRKS[model_type] = quirks


def is_declared(model: torch.nn.Module) -> bool:
    """Return whether the model's `model_type` is in the table."""
    return _model_type(model) in _QUIRKS


def quirks_of(model: torch.nn.Module) -> BackboneQuirks:
    """Return the quirks that `attach` stored for a model, else the table's entry, else those of a plain masked LM."""
    attached = getattr(model, "_demask_quirks", None)
    if attached is not None:
        return attached
    plain = BackboneQuirks(states="base_model" if isinstance(model, PreTrainedModel) else None)
    quirks = _QUIRKS.get(_model_type(model) or "", plain)
    block_size = getattr(model.config, "block_size", None) if quirks.block_alignment is not None else None
    return quirks if block_size is None else replace(quirks, block_length=block_size)


def _model_type(model: torch.nn.Module) -> str | None:
    return getattr(getattr(model, "config", None), "model_type", None)
