"""The only place with model quirks: mask token, shift of the logits, where hidden states and lm_head are."""

from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel


# Shift of the logits by `model_type`: with 1, the output at position i - 1 predicts the token at position i.
LOGITS_SHIFTS = {"Dream": 1}


@dataclass
class Prediction:
    """What one forward says about the candidates, in row-major order of `candidates`.

    Args:
        logits (`torch.Tensor` of shape `(num_candidates, vocabulary)`):
            Raw scores, in float32.
        hidden_states (`torch.Tensor` of shape `(num_candidates, hidden_size)`, *optional*):
            Final hidden states that speak for the candidates, on the device where the backbone left them.
    """

    logits: torch.Tensor
    hidden_states: torch.Tensor | None


@dataclass
class Backbone:
    """A masked diffusion model as the loop sees it: aligned hidden states and logits of chosen positions.

    Args:
        model (`torch.nn.Module`):
            The model. Either its inner model (`model.base_model`) returns `last_hidden_state` and its output
            embedding maps that to logits, or its own forward returns `logits` and, when asked, `hidden_states`.
        mask_token_id (`int`):
            Id of the mask token.
        logits_shift (`int`):
            0, or 1 where the output at position `i - 1` predicts the token at position `i`.
    """

    model: torch.nn.Module
    mask_token_id: int
    logits_shift: int = 0
    is_split: bool = field(init=False)

    def __post_init__(self):
        inner = getattr(self.model, "base_model", self.model)
        head = getattr(self.model, "lm_head", None)
        self.is_split = inner is not self.model and isinstance(head, torch.nn.Module)

    @classmethod
    def of(cls, model: torch.nn.Module, mask_token_id: int | None = None) -> "Backbone":
        """Describe a model from its attributes and configuration.

        Args:
            model (`torch.nn.Module`):
                The model.
            mask_token_id (`int`, *optional*):
                Id from the generation config; comes after one that was attached and before the model's config.

        Raises:
            ValueError: if no mask token is known, or the id is outside the vocabulary.
        """
        config = getattr(model, "config", None)
        attached = getattr(model, "_demask_mask_token_id", None)
        known = (attached, mask_token_id, getattr(config, "mask_token_id", None))
        mask_token_id = next((token for token in known if token is not None), None)
        if mask_token_id is None:
            raise ValueError(
                "`mask_token_id` must be known to decode by unmasking, got None: set it in the model's config, in "
                "the generation config, or pass it to `demask_hf.attach`."
            )
        vocab_size = getattr(config, "vocab_size", None)
        if mask_token_id < 0 or (vocab_size is not None and mask_token_id >= vocab_size):
            raise ValueError(f"`mask_token_id` must be in [0, {vocab_size}), got {mask_token_id}.")
        return cls(model, mask_token_id, logits_shift_of(model))

    @property
    def device(self) -> torch.device | None:
        """Device that input ids are expected on; `None` for a model without parameters, which takes any."""
        if isinstance(self.model, PreTrainedModel):
            device = self.model.device
        else:
            device = next((parameter.device for parameter in self.model.parameters()), None)
        if device is None or device.type != "meta":
            return device
        # Offloaded by accelerate: the weights are elsewhere, the hook of the module says where it computes.
        hooks = (getattr(module, "_hf_hook", None) for module in self.model.modules())
        devices = (getattr(hook, "execution_device", None) for hook in hooks)
        return torch.device(next((device for device in devices if device not in (None, "disk", "meta")), "cpu"))

    @torch.no_grad()
    def predict(
        self,
        sequences: torch.LongTensor,
        candidates: torch.BoolTensor,
        attention_mask: torch.Tensor | None,
        with_hidden_states: bool = True,
    ) -> Prediction:
        """Run the model once and return what it says about the candidates.

        Hidden states are gathered before the output embedding, so no tensor of shape (length, vocabulary) exists.

        Args:
            sequences (`torch.LongTensor` of shape `(batch, length)`):
                Token ids, masks included.
            candidates (`torch.BoolTensor` of shape `(batch, length)`):
                Positions asked for.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*):
                0 at left padding; `None` where there is none.
            with_hidden_states (`bool`, *optional*, defaults to `True`):
                Whether the hidden states are needed.

        Returns:
            [`Prediction`]

        Raises:
            ValueError: if hidden states are needed and the model does not return them.
        """
        inputs = {"input_ids": sequences}
        first_real = torch.zeros(sequences.shape[0], dtype=torch.long, device=sequences.device)
        if attention_mask is not None:
            first_real = attention_mask.long().argmax(dim=-1)
            position_ids = (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 1)
            inputs |= {"attention_mask": attention_mask, "position_ids": position_ids}
        rows, columns = candidates.nonzero(as_tuple=True)
        # The first token of a row has no predecessor; like Dream's public code, it is read from its own output.
        columns = torch.maximum(columns - self.logits_shift, first_real[rows])
        if self.is_split:
            states = self.model.base_model(**inputs).last_hidden_state
            states = states[rows.to(states.device), columns.to(states.device)]
            logits = self.model.lm_head(states)
        else:
            outputs = self.model(**inputs, **({"output_hidden_states": True} if with_hidden_states else {}))
            states = getattr(outputs, "hidden_states", None)
            if with_hidden_states and states is None:
                raise ValueError(
                    f"`model` must return `hidden_states` for a dependency head, got none from "
                    f"{type(self.model).__name__}."
                )
            states = states[-1][rows, columns] if with_hidden_states else None
            logits = outputs.logits[rows, columns]
        return Prediction(logits.float().to(sequences.device), states)


def logits_shift_of(model: torch.nn.Module) -> int:
    """Return the shift that was attached to a model, or else the one of its `model_type`; 0 if unknown."""
    attached = getattr(model, "_demask_logits_shift", None)
    if attached is not None:
        return attached
    return LOGITS_SHIFTS.get(getattr(getattr(model, "config", None), "model_type", None), 0)


def backbone_facts(model: torch.nn.Module) -> dict[str, int | str | None]:
    """Return what a dependency head must know of a backbone, by the names of [`DemaskConfig`]; `None` if unknown."""
    config = getattr(model, "config", None)
    return {
        "backbone_hidden_size": getattr(config, "hidden_size", None),
        "backbone_model_type": getattr(config, "model_type", None),
        "backbone_num_layers": getattr(config, "num_hidden_layers", None),
        "backbone_vocab_size": getattr(config, "vocab_size", None),
        "logits_shift": logits_shift_of(model),
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
    """Refuse a dependency head that was made for a backbone with other facts, see [`check_head`]."""
    for name, actual in facts.items():
        expected = getattr(head.config, name)
        if expected is not None and actual is not None and expected != actual:
            raise ValueError(
                f"`head` must be made for this backbone, got a head with {name} {expected!r} for a model with "
                f"{actual!r}."
            )
