"""Training examples for a dependency head: states of a backbone, with dependencies measured for some sources."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..backbones.backbone import Backbone
from ..backbones.prediction import Prediction, PredictionRequest
from ..functional.distributions import certainty_of, confidence, entropy
from ..functional.masking import left_padded_positions
from ..functional.probes import MeasuredDependencies, measure_dependencies
from ..functional.sampling import Sampling
from ..generation.blocks import BlockLayout
from ..generation.canvases import CanvasForward
from ..generation.predictor import Predictor


@dataclass
class DependencyExample:
    """One state and what was measured in it.

    Args:
        hidden_states (`torch.Tensor` of shape `(positions, hidden_size)`):
            Final hidden states used to predict the masked positions.
        positions (`torch.LongTensor` of shape `(positions,)`):
            Places of the positions, counted from the first real token.
        sources (`torch.LongTensor` of shape `(sources,)`):
            Which of the positions were revealed, as indices into `positions`, ascending.
        targets (`torch.Tensor` of shape `(sources, positions)`):
            `D[source, target]` in [0, 1], measured; 0 where source and target are the same position.
        confidence (`torch.Tensor` of shape `(positions,)`):
            Probability of the most likely token of each position.
        entropy (`torch.Tensor` of shape `(positions,)`):
            Entropy of its prediction, in nats.
        tokens (`torch.LongTensor` of shape `(positions,)`):
            Its most likely token.
        uncovered_mass (`float`, *optional*, defaults to 0.0):
            Largest probability mass of a source that the estimator did not cover.
        record (`int`, *optional*, defaults to -1):
            Number of the prompt that the state belongs to, -1 if there is none.
    """

    hidden_states: torch.Tensor
    positions: torch.Tensor
    sources: torch.Tensor
    targets: torch.Tensor
    confidence: torch.Tensor
    entropy: torch.Tensor
    tokens: torch.Tensor
    uncovered_mass: float = 0.0
    record: int = -1

    @property
    def labels(self) -> torch.Tensor:
        """`D[source, target]` of shape `(positions, positions)`, -1 in the rows of sources that were not measured."""
        size = self.positions.numel()
        return self.targets.new_full((size, size), -1.0).index_copy_(0, self.sources, self.targets)


class Examples(Protocol):
    """Measured states by number: a list of them, a stored collection, or a part of one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> DependencyExample: ...


@torch.no_grad()
def measure_examples(  # noqa: PLR0913, every argument is a fact of the states or a choice of the caller
    backbone: Backbone,
    sequences: torch.Tensor,
    attention_mask: torch.Tensor | None,
    candidates: torch.Tensor,
    num_sources: int,
    generator: torch.Generator,
    estimator: str = "expectation",
    min_probability: float = 1e-3,
    sampling: Sampling | None = None,
    noise: torch.Tensor | None = None,
    layout: BlockLayout | None = None,
) -> list[DependencyExample]:
    """Measure the dependency rows of a few random sources in every state.

    Args:
        backbone ([`Backbone`]):
            The model.
        sequences (`torch.LongTensor` of shape `(batch, length)`):
            States, masks included.
        attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*):
            0 at left padding.
        candidates (`torch.BoolTensor` of shape `(batch, length)`):
            Masked positions to consider, at least one in each row.
        num_sources (`int`):
            Sources drawn in each state; fewer if there are fewer candidates.
        generator (`torch.Generator`):
            Draws the sources, and the tokens of the estimator "sample"; on the CPU.
        estimator (`str`, *optional*, defaults to "expectation"):
            As in [`measure_dependencies`].
        min_probability (`float`, *optional*, defaults to 1e-3):
            As in [`measure_dependencies`]; the default omits little mass and avoids most of the forwards.
        sampling ([`Sampling`], *optional*):
            Temperature and filters of the distributions whose dependencies are measured; by default none.
            Confidence and entropy are always the model's own, as in decoding.
        noise (`torch.LongTensor` of shape `(2, batch, canvas_length)`, *optional*):
            For models with canvases: random tokens of the step before and of this one.
        layout ([`BlockLayout`], *optional*):
            Blocks of a model with block-causal attention.

    Returns:
        `list[DependencyExample]`, one per state, on the CPU; hidden states in the backbone's precision.
    """
    sampling = sampling or Sampling()
    canvas = None if noise is None else CanvasForward.at(backbone, sequences, attention_mask, noise)
    predictor = Predictor(
        backbone, sampling, scored=sampling, attention_mask=attention_mask, cached=canvas, layout=layout
    )
    blocks = None if layout is None else layout.blocks
    prediction = _predicted(backbone, canvas, PredictionRequest(sequences, candidates, attention_mask, blocks=blocks))
    probabilities, plain = (each.probabilities(prediction.logits) for each in (sampling, Sampling()))
    order = torch.rand(candidates.shape, generator=generator).to(sequences.device).masked_fill(~candidates, 2.0)
    sources = candidates & (order.argsort(dim=-1).argsort(dim=-1) < num_sources)
    state = (sequences, candidates, probabilities, backbone.mask_token_id)
    measured = measure_dependencies(predictor.probe, *state, estimator, sources, min_probability, generator)
    positions = torch.arange(sequences.shape[1], device=sequences.device).expand_as(sequences)
    if attention_mask is not None:
        positions = left_padded_positions(attention_mask)
    facts: dict[str, Any] = {
        "hidden_states": prediction.hidden_states,
        "positions": positions[candidates],
        "confidence": confidence(plain),
        "entropy": entropy(plain),
        "tokens": plain.argmax(dim=-1),
    }
    return _split(facts, measured, candidates, sources)


def _predicted(backbone: Backbone, canvas: CanvasForward | None, request: PredictionRequest) -> Prediction:
    """Return what the model predicts in the states, with hidden states."""
    rows = list(range(len(request.sequences)))
    prediction = backbone.predict(request) if canvas is None else canvas.predict(request, rows)
    if prediction.hidden_states is None:
        raise ValueError(
            f"`model` must return hidden states to learn from, got none from {type(backbone.model).__name__}."
        )
    return prediction


def _split(
    facts: dict[str, torch.Tensor],
    measured: MeasuredDependencies,
    candidates: torch.Tensor,
    sources: torch.Tensor,
) -> list[DependencyExample]:
    """Return one example per row from facts whose first dimension runs over all candidates."""
    counts = candidates.sum(dim=-1).tolist()
    columns = {name: fact.cpu().split(counts) for name, fact in facts.items()}
    is_source = sources[candidates].cpu().split(counts)
    dependencies, uncovered = measured.dependencies.cpu(), measured.uncovered_mass.tolist()
    examples = []
    for row, count in enumerate(counts):
        chosen = is_source[row].nonzero().squeeze(-1)
        examples.append(
            DependencyExample(
                # A copy, so that one row does not keep the whole batch in memory.
                **{name: parts[row].clone() for name, parts in columns.items()},
                sources=chosen,
                targets=dependencies[row, chosen, :count].clone(),
                uncovered_mass=uncovered[row],
            )
        )
    return examples


def collate_examples(examples: Sequence[DependencyExample]) -> dict[str, torch.Tensor]:
    """Pad examples to the longest and stack them, as keyword arguments of [`DemaskHead`].

    Args:
        examples (`Sequence[DependencyExample]`):
            Examples of one backbone.

    Returns:
        `dict` with `hidden_states` `(batch, positions, hidden_size)`, `positions` and `is_position`
        `(batch, positions)`, `certainty` `(batch, positions, 2)`, and `labels` `(batch, positions, positions)`, -1 in
        padding.
    """
    sizes = torch.tensor([example.positions.numel() for example in examples])
    size = int(sizes.max())
    labels = torch.full((len(examples), size, size), -1.0)
    for row, example in enumerate(examples):
        labels[row, example.sources, : sizes[row]] = example.targets.float()
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "hidden_states": pad([example.hidden_states for example in examples], batch_first=True),
        "positions": pad([example.positions for example in examples], batch_first=True),
        "is_position": torch.arange(size) < sizes[:, None],
        "certainty": pad(
            [certainty_of(example.confidence, example.entropy) for example in examples], batch_first=True
        ),
        "labels": labels,
    }
