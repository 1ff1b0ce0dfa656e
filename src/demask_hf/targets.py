"""Training examples for a dependency head: states of a backbone with dependencies measured from some sources."""

from dataclasses import dataclass

import torch

from .backbone import Backbone
from .probes import measure_dependencies


@dataclass
class DependencyExample:
    """One state and what was measured in it.

    Args:
        hidden_states (`torch.Tensor` of shape `(positions, hidden_size)`):
            Final hidden states that speak for the masked positions.
        positions (`torch.LongTensor` of shape `(positions,)`):
            Where they lie, counted from the first real token.
        labels (`torch.Tensor` of shape `(positions, positions)`):
            `D[source, target]` in [0, 1]; -1 in the rows of sources that were not measured.
    """

    hidden_states: torch.Tensor
    positions: torch.LongTensor
    labels: torch.Tensor


@torch.no_grad()
def measure_examples(
    backbone: Backbone,
    sequences: torch.LongTensor,
    attention_mask: torch.Tensor | None,
    candidates: torch.BoolTensor,
    num_sources: int,
    generator: torch.Generator,
    estimator: str = "expectation",
    min_probability: float = 1e-3,
) -> list[DependencyExample]:
    """Measure, in every state, the dependency rows of a few random sources.

    Args:
        backbone ([`Backbone`]):
            The model.
        sequences (`torch.LongTensor` of shape `(batch, length)`):
            States, masks included.
        attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*):
            0 at left padding.
        candidates (`torch.BoolTensor` of shape `(batch, length)`):
            Masked positions that count, at least one in each row.
        num_sources (`int`):
            Sources drawn in each state, fewer where there are fewer candidates.
        generator (`torch.Generator`):
            Draws the sources; on the CPU.
        estimator (`str`, *optional*, defaults to "expectation"):
            As in [`measure_dependencies`].
        min_probability (`float`, *optional*, defaults to 1e-3):
            As in [`measure_dependencies`]; the default leaves out little mass and saves most of the forwards.

    Returns:
        `list[DependencyExample]`, one per state, on the CPU in float32.
    """
    prediction = backbone.predict(sequences, candidates, attention_mask)

    def predict(revealed, rows, asked):
        mask = None if attention_mask is None else attention_mask[rows]
        return backbone.predict(revealed, asked, mask).logits.softmax(dim=-1)

    noise = torch.rand(candidates.shape, generator=generator).to(sequences.device).masked_fill(~candidates, 2.0)
    sources = candidates & (noise.argsort(dim=-1).argsort(dim=-1) < num_sources)
    measured = measure_dependencies(
        predict,
        sequences,
        candidates,
        prediction.logits.softmax(dim=-1),
        backbone.mask_token_id,
        estimator,
        sources,
        min_probability,
    )
    positions = torch.arange(sequences.shape[1], device=sequences.device).expand_as(sequences)
    if attention_mask is not None:
        positions = attention_mask.long().cumsum(dim=-1) - 1
    counts = candidates.sum(dim=-1).tolist()
    examples = []
    for row, states in enumerate(prediction.hidden_states.float().cpu().split(counts)):
        labels = measured.dependencies[row, : counts[row], : counts[row]].cpu()
        is_source = sources[row][candidates[row]].cpu()
        labels = labels.masked_fill(~is_source[:, None], -1.0)
        examples.append(DependencyExample(states, positions[row][candidates[row]].cpu(), labels))
    return examples


def collate_examples(examples: list[DependencyExample]) -> dict[str, torch.Tensor]:
    """Pad examples to the longest and stack them, as keyword arguments of [`DemaskHead`].

    Args:
        examples (`list[DependencyExample]`):
            Examples of one backbone.

    Returns:
        `dict` with `hidden_states` `(batch, positions, hidden_size)`, `positions` and `is_position`
        `(batch, positions)`, and `labels` `(batch, positions, positions)`, -1 in padding.
    """
    sizes = torch.tensor([example.positions.numel() for example in examples])
    size = int(sizes.max())
    labels = torch.full((len(examples), size, size), -1.0)
    for row, example in enumerate(examples):
        labels[row, : sizes[row], : sizes[row]] = example.labels
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "hidden_states": pad([example.hidden_states for example in examples], batch_first=True),
        "positions": pad([example.positions for example in examples], batch_first=True),
        "is_position": torch.arange(size) < sizes[:, None],
        "labels": labels,
    }
