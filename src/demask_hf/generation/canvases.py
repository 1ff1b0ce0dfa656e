"""Models with uniform noise: the forward over a whole canvas, the noise of open positions, and what is refused."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..backbones.backbone import Backbone
from ..backbones.canvas import CanvasModel
from ..backbones.prediction import Prediction, PredictionRequest
from ..functional.candidates import CandidateIndex
from ..strategies import Canvas, DecodingSettings, UnmaskingStrategy
from ..strategies.needs import NEEDS
from .configuration import DemaskGenerationConfig
from .state import DecodingState


_NEEDS = frozenset(NEEDS) - {"context_confidence", "review"}
#: Fields of transformers' `DiffusionGemmaGenerationConfig` that are fields of "renoise" here, or hold one.
CANVAS_FIELDS = ("sampler_config", "t_min", "t_max", "stability_threshold", "confidence_threshold")
_COMMON = (
    *("max_new_tokens", "max_length", "max_denoising_steps", "return_dict_in_generate"),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
)


@dataclass
class CanvasForward:
    """The forward of a model with canvases: all rows, on the block that they are all at.

    Open positions are shown as uniform noise, which a request for the same rows repeats: a probe changes nothing but
    the tokens that it reveals. The model is conditioned on its logits of the step before.

    Args:
        model ([`CanvasModel`]):
            Encoder, decoder and the cache between them.
        canvas ([`Canvas`]):
            What the model sees.
        is_conditioned (`torch.BoolTensor` of shape `(batch,)`, *optional*):
            Rows that are conditioned, where some are not.
    """

    model: CanvasModel
    canvas: Canvas
    is_conditioned: torch.Tensor | None = None
    entered: list[int] = field(init=False, default_factory=list)

    @classmethod
    def at(
        cls, backbone: Backbone, sequences: torch.Tensor, attention_mask: torch.Tensor | None, noise: torch.Tensor
    ) -> "CanvasForward":
        """Return the forward for the canvas that ends the sequences, in the middle of its decoding.

        Where something is written, the model is conditioned on what it predicts with other noise, as it is on the
        step before while it decodes.

        Args:
            backbone ([`Backbone`]):
                The model.
            sequences (`torch.LongTensor` of shape `(batch, length)`):
                Prompts and canvases.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*):
                0 at left padding.
            noise (`torch.LongTensor` of shape `(2, batch, canvas_length)`):
                Noise of the step before, and of this one.
        """
        model = CanvasModel(backbone, None if attention_mask is None else attention_mask.bool())
        start, zeros = sequences.shape[1] - noise.shape[2], torch.zeros_like(noise[0])
        model.encode(sequences[:, :start])
        canvas = Canvas(noise[1], model.vocab_size, model.dtype, zeros[:, 0], zeros[:, 0], zeros, start, _no_look)
        is_open = sequences[:, start:] == backbone.mask_token_id
        before = torch.where(is_open, noise[0], sequences[:, start:])
        canvas.condition(model.decode(before)[0])
        return cls(model, canvas, ~is_open.all(dim=-1))

    def plan(self, index: CandidateIndex) -> None:
        """Stay at the only canvas."""

    def predict(self, request: PredictionRequest, rows: list[int], is_probe: bool = False) -> Prediction:
        """Return what the model predicts at the requested places, which lie in the canvas.

        Args:
            request ([`PredictionRequest`]):
                Sequences and places.
            rows (`list[int]`):
                Batch row of each sequence.
            is_probe (`bool`, *optional*, defaults to `False`):
                Keep nothing.
        """
        canvas, mark = self.canvas, self.model.backbone.mask_token_id
        chosen = torch.tensor(rows).to(canvas.tokens.device, non_blocking=True)
        asked = request.sequences[:, canvas.columns]
        shown = torch.where(asked == mark, canvas.tokens[chosen], asked)
        places, columns = request.places[0], request.places[1] - canvas.start
        if is_probe:
            conditioning, is_conditioned = (
                each if each is None else each[chosen] for each in (canvas.conditioning, self.is_conditioned)
            )
            logits, states = self.model.decode(shown, conditioning, is_conditioned, chosen)
        else:
            # Rows that are not asked for repeat what they saw, so that the others are computed in the same shapes.
            canvas.tokens = canvas.tokens.index_copy(0, chosen, shown)
            logits, states = self.model.decode(canvas.tokens, canvas.conditioning, self.is_conditioned)
            canvas.logits, places = logits, chosen[places]
        kept = states[places.to(states.device), columns.to(states.device)] if request.with_hidden_states else None
        logits = logits[places, columns]
        # The mark of an open position is one more token, which is never written.
        never = torch.full_like(logits[:, :1], torch.finfo(logits.dtype).min)
        return Prediction(torch.cat([logits, never], dim=-1), kept)


@dataclass(kw_only=True)
class DecodingCanvas(CanvasForward):
    """The forward of a decoding, whose canvases follow each other.

    Args:
        state ([`DecodingState`]):
            The state of the decoding.
        settings ([`DecodingSettings`]):
            Its settings.
        kept_lengths (`Callable`):
            Maps the state to the number of columns up to the end of each row.
        is_renewed_by_strategy (`bool`):
            Whether the strategy decides what the next step sees.
    """

    state: DecodingState
    settings: DecodingSettings
    kept_lengths: Callable[[DecodingState], torch.Tensor]
    is_renewed_by_strategy: bool

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        strategy: UnmaskingStrategy,
        settings: DecodingSettings,
        state: DecodingState,
        kept_lengths: Callable[[DecodingState], torch.Tensor],
    ) -> "DecodingCanvas | None":
        """Return the forward before the first canvas; `None` for a model with mask tokens."""
        if backbone.quirks.noise != "uniform":
            return None
        model = CanvasModel(backbone, None if state.attention_mask is None else state.attention_mask.bool())
        first = state.sequences[:, : settings.block_length]
        canvas = Canvas(
            first,
            model.vocab_size,
            model.dtype,
            None if settings.draws_from_torch else state.seeds,
            state.num_steps,
            first,
            0,
            _no_look,
        )
        return cls(
            model,
            canvas,
            state=state,
            settings=settings,
            kept_lengths=kept_lengths,
            is_renewed_by_strategy="canvas" in strategy.needs,
        )

    def plan(self, index: CandidateIndex) -> None:
        """Draw the noise of this step; at a new canvas, read the text before it first."""
        state, settings, before = self.state, self.settings, self.canvas
        number = (index.first_columns[0] - settings.prompt_length) // settings.block_length
        start = settings.prompt_length + number * settings.block_length
        before.is_new, before.steps = start != before.start, state.num_steps
        if not before.is_new:
            self._renew()
            return
        text = state.sequences[:, before.start : start]
        if settings.pad_token_id is not None:
            columns = torch.arange(before.start, start, device=text.device)
            text = text.masked_fill(columns >= self.kept_lengths(state)[:, None], settings.pad_token_id)
        self.model.encode(text)
        positions = state.positions[:, start : start + settings.block_length]
        facts = (before.vocab_size, before.dtype, before.seeds, before.steps, positions, start, self._look)
        self.canvas = Canvas(before.tokens, *facts)
        self.canvas.tokens = self.canvas.noise(is_first=True)

    def _renew(self) -> None:
        """Draw the noise of a further step, and let it read the logits of the one before."""
        canvas = self.canvas
        if self.is_renewed_by_strategy or canvas.logits is None:
            return
        canvas.tokens = canvas.noise()
        temperature = self.settings.temperature
        canvas.condition(canvas.logits / temperature if temperature > 0 else canvas.logits)

    def _look(self) -> torch.Tensor:
        canvas = self.canvas
        canvas.logits = self.model.decode(canvas.tokens, canvas.conditioning)[0]
        return canvas.logits


def _no_look() -> torch.Tensor:
    raise RuntimeError("A canvas must be entered before the model runs on it.")


def check_canvas(backbone: Backbone, rule: UnmaskingStrategy, config: DemaskGenerationConfig) -> None:
    """Refuse what cannot be done on canvases, and a rule that needs one on other models.

    Raises:
        ValueError: if strategy or settings need something else than a canvas can give.
    """
    name, model = getattr(rule, "name", type(rule).__name__), type(backbone.model).__name__
    if backbone.quirks.noise != "uniform":
        if "canvas" in rule.needs:
            raise ValueError(
                f"`strategy` must be another one than {name!r} for a {model}, which has a mask token: that rule "
                "renoises canvases."
            )
        return
    others = [need for need in rule.needs if need not in {*_NEEDS, "canvas"}]
    if others or rule.remasks or rule.selects_in_all_blocks or rule.num_versions > 1:
        raise ValueError(
            f"`strategy` must read open positions of the current canvas only, and write them once, for a {model}, got "
            f"{name!r}."
        )
    of_model: dict[str, tuple[Any, ...]] = {"compile": (False,), "batch_invariant": (False,), "constraint": (None,)}
    of_model["block_length"] = (backbone.quirks.block_length,)
    of_rule: dict[str, tuple[Any, ...]] = {}
    if "canvas" in rule.needs:
        of_rule = {"temperature": (0,), "top_p": (1,), "top_k": (0,), "eos_penalty": (0,), "repetition_penalty": (1,)}
        of_rule |= {"suppress_tokens": ([],), "bad_words_ids": ([],)}
    for settings, owner in ((of_model, f"a {model}"), (of_rule, f"strategy {name!r}")):
        for setting, plain in settings.items():
            value = getattr(config, setting)
            if value is not None and value not in plain:
                raise ValueError(f"`{setting}` must be {plain[0]!r} for {owner}, got {value!r}.")


def check_canvas_length(
    backbone: Backbone, num_new_tokens: int, name: str = "max_new_tokens", is_single: bool = False
) -> None:
    """Refuse an answer that is not a number of whole canvases.

    Args:
        backbone ([`Backbone`]):
            The model; one with a mask token has no canvases, and nothing is refused.
        num_new_tokens (`int`):
            Length of the answer.
        name (`str`, *optional*, defaults to `"max_new_tokens"`):
            Name of the setting.
        is_single (`bool`, *optional*, defaults to `False`):
            Allow one canvas only.

    Raises:
        ValueError: if it is not.
    """
    length = backbone.quirks.block_length
    if backbone.quirks.noise != "uniform" or not length:
        return
    if num_new_tokens < 1 or num_new_tokens % length or (is_single and num_new_tokens > length):
        what = "a multiple of the canvas length" if not is_single else "the canvas length"
        raise ValueError(f"`{name}` must be {what} ({length}), got {num_new_tokens}.")


def of_canvases(config: Any, inherited: Any = None) -> DemaskGenerationConfig:
    """Return the settings that a `DiffusionGemmaGenerationConfig` stands for: its sampler is "renoise".

    Args:
        config (`DiffusionGemmaGenerationConfig`):
            The model's, or the caller's.
        inherited (`GenerationConfig`, *optional*):
            The model's, if `config` is the caller's: what the caller's does not set is that of the model.
    """
    fields = {name: getattr(config, name) for name in CANVAS_FIELDS}
    if inherited is not None and all(value is None for value in fields.values()):
        return DemaskGenerationConfig(**{name: getattr(config, name) for name in _COMMON})
    fields = {name: getattr(inherited, name, None) if value is None else value for name, value in fields.items()}
    sampler = fields.pop("sampler_config")
    fields["entropy_bound"] = None if sampler is None else sampler.entropy_bound
    rule = {"name": "renoise", **{name: value for name, value in fields.items() if value is not None}}
    return DemaskGenerationConfig(strategy=rule, **{name: getattr(config, name) for name in _COMMON})
