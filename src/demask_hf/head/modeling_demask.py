"""The dependency head: from final hidden states to the dependency matrix, in one pass.

This file, its layers and its configuration import only torch and transformers, so that they work alone in a Hub
repository.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, cached_file

from .configuration_demask import DemaskConfig
from .layers_demask import DemaskDistanceBias, DemaskMixingLayer, distance_buckets


@dataclass
class DependencyOutput(ModelOutput):
    """What [`DemaskHead`] returns.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            Mean binary cross-entropy with soft targets, in nats per pair; returned when `labels` are given.
        dependencies (`torch.FloatTensor` of shape `(batch, positions, positions)`):
            Estimate of `D[source, target]`, float32, in [0, 1]; 0 on the diagonal and at padding.
        logits (`torch.FloatTensor` of shape `(batch, positions, positions)`):
            The same before the sigmoid, float32; no entry is set to 0.
    """

    loss: torch.Tensor | None = None
    dependencies: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class DemaskHead(PreTrainedModel):
    """Predict, for each ordered pair of masked positions, how much revealing one changes the prediction of the other.

    `D[i, j] = sigmoid(q_i . k_j / sqrt(width) + source_i + target_j + distance(j - i))`, where queries, keys and
    biases are computed from the final hidden states used to predict the positions, mixed over the masked positions of
    the state. The idea is that of DEMASK (arXiv 2604.02560). With `config.is_dot_product` nothing is mixed or added:
    `D[i, j] = sigmoid(q_i . k_j / sqrt(width))`, with queries and keys from the hidden states as they are.

    Args:
        config ([`DemaskConfig`]):
            The head's configuration.
    """

    config: DemaskConfig
    config_class = DemaskConfig
    base_model_prefix = "demask"
    main_input_name = "hidden_states"

    def __init__(self, config: DemaskConfig):
        super().__init__(config)
        width = config.width
        if not config.is_dot_product:
            self.input_norm = nn.RMSNorm(config.backbone_hidden_size, eps=1e-6)
            self.input_projection = nn.Linear(config.backbone_hidden_size, width)
            if config.reads_certainty:
                self.certainty_projection = nn.Linear(2, width, bias=False)
            self.position_projection = nn.Linear(width, width, bias=False)
            self.mixing_layers = nn.ModuleList(DemaskMixingLayer(config) for _ in range(config.num_mixing_layers))
            self.norm = nn.RMSNorm(width, eps=1e-6)
        inputs = config.backbone_hidden_size if config.is_dot_product else width
        self.query = nn.Linear(inputs, width)
        self.key = nn.Linear(inputs, width)
        if not config.is_dot_product:
            self.scorer = nn.Linear(width, 2)
            self.distance_bias = DemaskDistanceBias(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, use_safetensors: bool | None = True, **kwargs: Any) -> "DemaskHead":
        """Load a head, from safetensors only.

        Raises:
            ValueError: if another format is asked for, by an argument or by the files themselves, tensors are missing
                or have no place in the head, or weights are not finite.
        """
        if not use_safetensors:
            raise ValueError(f"`use_safetensors` must be True for a dependency head, got {use_safetensors!r}.")
        name_or_path = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        names = ("subfolder", "revision", "token", "cache_dir", "local_files_only")
        access = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        index = name_or_path and cached_file(
            name_or_path,
            "model.safetensors.index.json",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
            **access,
        )
        if index:
            # Before the files that it names are opened.
            _check_weights(_indexed(index), name_or_path)
        try:
            return super().from_pretrained(*args, use_safetensors=True, **{**kwargs, "weights_only": True})
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise ValueError(
                f"`head` must have tensors of the shapes in its config.json, got {str(name_or_path)!r} with other "
                "shapes."
            ) from error

    @staticmethod
    def _load_pretrained_model(model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any) -> Any:
        """Refuse files of other formats; called for the head and for an adapter of it."""
        _check_weights([str(file).replace("\\", "/").rpartition("/")[2] for file in checkpoint_files or ()], model)
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        """Refuse what is not a whole head; called when the tensors are read, before random numbers replace any."""
        super()._adjust_missing_and_unexpected_keys(loading_info)
        name = repr(str(self.name_or_path))
        if missing := sorted(loading_info.missing_keys):
            raise ValueError(
                f"`head` must hold every tensor of a dependency head, got {name} without {len(missing)} of them, such "
                f"as {missing[0]}."
            )
        if further := sorted(loading_info.unexpected_keys):
            raise ValueError(
                f"`head` must hold the tensors of a dependency head and no others, got {name} with {len(further)} "
                f"without a place in it, such as {further[0]}."
            )
        for tensor, value in self.named_parameters():
            if value.device.type != "meta" and not torch.isfinite(value).all():
                raise ValueError(f"`head` must hold finite weights, got {name} with NaN or infinity in {tensor}.")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DemaskDistanceBias):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.copy_(module.buckets, distance_buckets(self.config))
        if module is getattr(self, "scorer", None):
            # Source and target each contribute half of the prior's logit.
            prior = self.config.initial_dependency
            self.scorer.bias.fill_(0.5 * math.log(prior / (1 - prior)))

    def forward(
        self,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        is_position: torch.Tensor | None = None,
        certainty: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = True,
    ) -> DependencyOutput:
        """Return the dependency matrix of every row.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch, positions, backbone_hidden_size)`):
                Final hidden states used to predict the masked positions; rows are padded to the longest.
            positions (`torch.LongTensor` of shape `(batch, positions)`):
                Places of the positions, counted from the first real token of the row; two equal places do not form a
                pair.
            is_position (`torch.BoolTensor` of shape `(batch, positions)`, *optional*):
                False at padding; by default there is none.
            certainty (`torch.Tensor` of shape `(batch, positions, 2)`, *optional*):
                Probability of the most likely token, and entropy in nats, of each position's prediction; read if
                `config.reads_certainty`.
            labels (`torch.Tensor` of shape `(batch, positions, positions)`, *optional*):
                Measured dependencies in [0, 1]; pairs with a negative label do not count in the loss.
            return_dict (`bool`, *optional*):
                Accepted for `Trainer`; the output is a [`DependencyOutput`] in any case.

        Returns:
            [`DependencyOutput`]

        Raises:
            ValueError: if the width of `hidden_states` is not `config.backbone_hidden_size`, or `certainty` is
                missing.
        """
        if hidden_states.shape[-1] != self.config.backbone_hidden_size:
            raise ValueError(
                f"`hidden_states` must have the width this head was made for ({self.config.backbone_hidden_size}), "
                f"got {hidden_states.shape[-1]}."
            )
        offsets = self._offsets(positions)
        is_pair = offsets != self.config.max_distance
        if is_position is not None:
            is_pair = is_pair & is_position[:, :, None] & is_position[:, None, :]
        states, scale = hidden_states.to(self.dtype), 1 / math.sqrt(self.config.width)
        if self.config.is_dot_product:
            logits = torch.bmm(self.query(states).float(), self.key(states).float().transpose(1, 2)) * scale
        else:
            states = self._embedded(states, positions, certainty)
            by_distance, *mixing_biases = self.distance_bias(offsets)
            if is_position is not None:
                # A large finite value, so that rows without any position do not become NaN.
                is_padding = ~is_position[:, None, None, :]
                mixing_biases = [bias.masked_fill(is_padding, -1e4) for bias in mixing_biases]
            for layer, bias in zip(self.mixing_layers, mixing_biases, strict=True):
                states = layer(states, bias)
            states = self.norm(states)
            source_bias, target_bias = self.scorer(states).float().unbind(-1)
            query, key = self.query(states).float(), self.key(states).float()
            logits = torch.baddbmm(by_distance[:, 0].float(), query, key.transpose(1, 2), alpha=scale)
            logits = logits + source_bias[:, :, None] + target_bias[:, None, :]
        loss = None if labels is None else dependency_loss(logits, labels, is_pair)
        return DependencyOutput(loss=loss, dependencies=logits.sigmoid() * is_pair, logits=logits)

    def _embedded(self, states: torch.Tensor, positions: torch.Tensor, certainty: torch.Tensor | None) -> torch.Tensor:
        """Return the sum of all inputs in the width of the head, `(batch, positions, width)`."""
        states = self.input_projection(self.input_norm(states))
        if self.config.reads_certainty:
            if certainty is None:
                raise ValueError("`certainty` must be given to a head that reads it, got None.")
            states = states + self.certainty_projection(certainty.to(self.dtype))
        return states + self.position_projection(self._sinusoids(positions).to(self.dtype))

    def _sinusoids(self, positions: torch.Tensor) -> torch.Tensor:
        """Return sine and cosine features of the positions, of shape `(batch, positions, width)`."""
        half = self.config.width // 2
        rates = torch.exp(-math.log(10_000.0) / half * torch.arange(half, device=positions.device))
        angles = positions[..., None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def _offsets(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the signed distance of each pair (source first) plus `max_distance`, clamped at both ends."""
        limit, positions = self.config.max_distance, positions.int()
        return (positions[:, None, :] + limit - positions[:, :, None]).clamp_(0, 2 * limit)


def _indexed(file: str) -> list[Any]:
    """Return the files that the index of a sharded head names."""
    try:
        with open(file, encoding="utf-8") as opened:
            return list(json.load(opened)["weight_map"].values())
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"`head` must have a `weight_map` in its index, got {str(file)!r}, which is damaged "
            f"({type(error).__name__})."
        ) from None


def _check_weights(names: Any, source: Any) -> None:
    """Refuse files with weights that are no safetensors files in the folder of the head: others may run code."""
    for name in names:
        if not isinstance(name, str) or not name.endswith(".safetensors") or {"/", "\\", ":"} & set(name):
            place = getattr(source, "name_or_path", source)
            raise ValueError(
                f"`head` must have its weights in safetensors files of its own folder, got {name!r} in {str(place)!r}."
            )


def dependency_loss(logits: torch.Tensor, labels: torch.Tensor, is_pair: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy with soft targets over the labelled pairs.

    Args:
        logits (`torch.Tensor` of shape `(batch, positions, positions)`):
            Predictions before the sigmoid.
        labels (`torch.Tensor` of the same shape):
            Measured dependencies in [0, 1], negative where nothing was measured.
        is_pair (`torch.BoolTensor` of the same shape):
            Off-diagonal pairs of real positions.

    Returns:
        `torch.Tensor` of shape `()`, in nats per pair; 0 if nothing is labelled.
    """
    weights = (is_pair & (labels >= 0)).float()
    losses = nn.functional.binary_cross_entropy_with_logits(logits, labels.clamp(0, 1).float(), reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1)


__all__ = ["DemaskHead"]
