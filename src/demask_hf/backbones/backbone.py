"""A model as the loop sees it: aligned hidden states and logits of chosen positions, according to its quirks."""

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..functional.masking import additive_mask, block_attention, left_padded_positions
from .attention import AttentionReader
from .prediction import Prediction, PredictionRequest, StatesGather, replaced_forward
from .quirks import BackboneQuirks, quirks_of


@dataclass
class Backbone:
    """A masked diffusion model as the loop sees it: aligned hidden states and logits of chosen positions.

    Args:
        model (`torch.nn.Module`):
            The model; its forward returns `logits`, and `hidden_states` on request.
        mask_token_id (`int`):
            Id of the mask token.
        quirks ([`BackboneQuirks`], *optional*):
            What is special about the model.
    """

    model: torch.nn.Module
    mask_token_id: int
    quirks: BackboneQuirks = BackboneQuirks()

    #: Every row runs alone and without its padding.
    is_rowwise: ClassVar[bool] = False

    @classmethod
    def of(cls, model: torch.nn.Module, mask_token_id: int | None = None) -> "Backbone":
        """Describe a model from its attributes and configuration.

        Args:
            model (`torch.nn.Module`):
                The model.
            mask_token_id (`int`, *optional*):
                Id from the generation config. An attached id takes precedence over it, and it takes precedence over
                the model's config.

        Raises:
            ValueError: if no mask token is known, or the id is outside the vocabulary.
        """
        config, quirks = getattr(model, "config", None), quirks_of(model)
        known = (quirks.mask_token_id, mask_token_id, getattr(config, "mask_token_id", None))
        mask_token_id = next((token for token in known if token is not None), None)
        if mask_token_id is None:
            raise ValueError(
                "`mask_token_id` must be known to decode by unmasking, got None: set it in the model's config, in "
                "the generation config, or pass it or the tokenizer to `demask_hf.attach`."
            )
        vocab_size = getattr(config, "vocab_size", None)
        if mask_token_id < 0 or (vocab_size is not None and mask_token_id >= vocab_size):
            raise ValueError(f"`mask_token_id` must be in [0, {vocab_size}), got {mask_token_id}.")
        return cls(model, mask_token_id, quirks)

    @property
    def device(self) -> torch.device | None:
        """Device that input ids are expected on; `None` for a model without parameters, which accepts any."""
        device: torch.device | None
        if isinstance(self.model, PreTrainedModel):
            device = self.model.device
        else:
            device = next((parameter.device for parameter in self.model.parameters()), None)
        if device is None or device.type != "meta":
            return device
        # Offloaded by accelerate: the weights are elsewhere; the hook of the module knows where it computes.
        hooks = (getattr(module, "_hf_hook", None) for module in self.model.modules())
        devices = (getattr(hook, "execution_device", None) for hook in hooks)
        return torch.device(next((device for device in devices if device not in (None, "disk", "meta")), "cpu"))

    @property
    def states_module(self) -> torch.nn.Module | None:
        """The submodule that returns the final hidden states; `None` if it is the model itself or unknown."""
        if self.quirks.states is None:
            return None
        try:
            module = operator.attrgetter(self.quirks.states)(self.model)
        except AttributeError:
            return None
        return None if module is self.model else module

    @property
    def vocab_size(self) -> int | None:
        """Number of token ids, according to the model's config; `None` if it does not say."""
        return getattr(text_config(self.model), "vocab_size", None)

    def takes(self, name: str) -> bool:
        """Return whether the model's forward has an argument of this name."""
        return name in inspect.signature(type(self.model).forward).parameters

    @property
    def cache_argument(self) -> str:
        """Name of the argument of the model's forward that takes a cache; transformers 5.24 renamed it."""
        return "cache" if self.takes("cache") else "past_key_values"

    def compiled(self, function: Callable) -> Callable:
        """Return the version of a function of the candidates to run: unchanged, unless the model is compiled."""
        return function

    @torch.no_grad()
    def predict(self, request: PredictionRequest) -> Prediction:
        """Run the model once and return what it predicts for the candidates.

        Hidden states are gathered before the output layer, so no tensor of shape (length, vocabulary) is created if
        the quirks name the submodule that returns them.

        Args:
            request ([`PredictionRequest`]):
                Sequences, positions, and what to return for them.

        Returns:
            [`Prediction`]

        Raises:
            ValueError: if hidden states or attention are needed and the model does not return them, or it has no mask
                token.
        """
        if self.quirks.noise != "mask":
            raise ValueError(
                f"`model` must have a mask token here, got a {type(self.model).__name__}: canvases of noise are for "
                "generate and collect only."
            )
        sequences, attention_mask, cache = request.sequences, request.attention_mask, request.cache
        inputs = self._inputs(request)
        first_real = torch.zeros(sequences.shape[0], dtype=torch.long, device=sequences.device)
        if attention_mask is not None:
            first_real = attention_mask.long().argmax(dim=-1)
        rows, columns = request.places
        # The first token of a row has no predecessor; like Dream's public code, it is read from its own output.
        columns = torch.maximum(columns - self.quirks.logits_shift, first_real[rows])
        if cache is not None:
            inputs[self.cache_argument] = cache
            if cache.columns is not None:
                cache.length = sequences.shape[1]
                inputs["input_ids"] = sequences.gather(1, cache.columns)
                inputs["position_ids"] = inputs.get("position_ids", _counted(sequences)).gather(1, cache.columns)
                columns = columns - cache.columns[rows, 0]
        if request.blocks is not None:
            own = request.blocks if cache is None else request.blocks.gather(1, cache.columns)
            inputs["attention_mask"] = block_attention(request.blocks, own, attention_mask, self._dtype)
        if request.attention_layers is None:
            return self._gathered(self.model, inputs, (rows, columns), request)
        reader = AttentionReader(self.model, request.attention_layers)
        found = self._gathered(reader, inputs, (rows, columns), request)
        if reader.attentions is not None:
            attentions = reader.attentions.to(sequences.device)
            found.attentions = attentions if attention_mask is None else attentions * attention_mask[..., None]
        return found

    def _inputs(self, request: PredictionRequest) -> dict[str, Any]:
        """Return the arguments of the model for whole sequences."""
        inputs: dict[str, Any] = {"input_ids": request.sequences}
        if request.token_type_ids is not None:
            inputs["token_type_ids"] = request.token_type_ids
        if request.attention_mask is not None:
            inputs["attention_mask"] = request.attention_mask
            if self.takes("position_ids") and not self.quirks.counts_positions:
                inputs["position_ids"] = left_padded_positions(request.attention_mask)
        if request.attended is not None:
            mask = additive_mask(request.attended, self._dtype)
            inputs |= {"attention_mask": mask, "position_ids": request.positions}
        return inputs

    @property
    def _dtype(self) -> torch.dtype:
        """Number format of the model, and so of a mask that its attention adds."""
        dtype: Any = getattr(self.model, "dtype", None)
        return dtype or next(self.model.parameters()).dtype

    def _finished(self, logits: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return logits in float32 on the sequences' device; tokens that are never written get the lowest value."""
        logits = logits.float().to(device)
        if self.quirks.special_token_ids:
            logits[:, list(self.quirks.special_token_ids)] = torch.finfo(logits.dtype).min
        return logits

    def _gathered(
        self,
        forward: Callable[..., Any],
        inputs: dict[str, Any],
        places: tuple[torch.Tensor, torch.Tensor],
        request: PredictionRequest,
    ) -> Prediction:
        """Run the model and return its output at these places."""
        module, device = self.states_module, request.sequences.device
        if module is None:
            outputs = forward(**inputs, **({"output_hidden_states": True} if request.with_hidden_states else {}))
            states = getattr(outputs, "hidden_states", None)
            if request.with_hidden_states and states is None:
                raise ValueError(
                    f"`model` must return `hidden_states` for a dependency head, got none from "
                    f"{type(self.model).__name__}."
                )
            kept = None if states is None or not request.with_hidden_states else states[-1][places]
            return Prediction(self._finished(outputs.logits[places], device), kept)
        gather = StatesGather(*places, request.part_size)
        handle = module.register_forward_hook(gather)
        try:
            logits = self._finished(forward(**inputs).logits[0], device)
        finally:
            handle.remove()
        if len(logits) == len(gather.states):
            return Prediction(logits, gather.states)

        def output(states: torch.Tensor) -> torch.Tensor:
            with replaced_forward(module, lambda *args, **kwargs: gather.returned(states)):
                return self._finished(self.model(**inputs).logits[0], device)

        return Prediction(logits, gather.states, output=output, part_size=request.part_size)


def _counted(sequences: torch.Tensor) -> torch.Tensor:
    """Return the number of each column."""
    return torch.arange(sequences.shape[1], device=sequences.device).expand_as(sequences)


def text_config(model: torch.nn.Module) -> Any:
    """Return the part of a model's config that is about text; `None` if it has no config."""
    config = getattr(model, "config", None)
    return config.get_text_config() if isinstance(config, PreTrainedConfig) else config


def backbone_facts(model: torch.nn.Module) -> dict[str, int | str | None]:
    """Return the facts about a backbone that a head depends on, as fields of [`DemaskConfig`]; `None` if unknown."""
    config = text_config(model)
    return {
        "backbone_hidden_size": getattr(config, "hidden_size", None),
        "backbone_model_type": getattr(getattr(model, "config", None), "model_type", None),
        "backbone_num_layers": getattr(config, "num_hidden_layers", None),
        "backbone_vocab_size": getattr(config, "vocab_size", None),
        "logits_shift": quirks_of(model).logits_shift,
    }


def check_head(model: torch.nn.Module, head: PreTrainedModel) -> None:
    """Refuse a dependency head that was made for another backbone.

    Args:
        model (`torch.nn.Module`):
            The backbone.
        head ([`DemaskHead`]):
            The head.

    Raises:
        ValueError: if width, model type, number of layers, vocabulary or shift differ.
    """
    check_head_facts(backbone_facts(model), head)


def check_head_facts(facts: dict[str, int | str | None], head: PreTrainedModel) -> None:
    """Refuse a dependency head that was made for another backbone, given the backbone's facts; see [`check_head`]."""
    for name, actual in facts.items():
        expected = getattr(head.config, name)
        if expected is not None and actual is not None and expected != actual:
            raise ValueError(
                f"`head` must be made for this backbone, got a head with {name} {expected!r} for a model with "
                f"{actual!r}."
            )
