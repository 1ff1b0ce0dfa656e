"""Measure dependencies: reveal one position at a time and run the backbone again."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..validation import check_choice
from .distributions import total_variation
from .sampling import inverse_transform


# Deterministic, so that decoding can use them; for training targets a drawn token is sufficient, too.
ESTIMATORS = ("expectation", "argmax")
TARGET_ESTIMATORS = (*ESTIMATORS, "sample")
# Up to this vocabulary size the expectation covers all tokens; beyond it, the `_NUM_TOP_TOKENS` most likely ones.
_LARGEST_FULL_VOCABULARY = 1024
_NUM_TOP_TOKENS = 32
_MAX_PROBE_ELEMENTS = 1 << 26
# On a CPU, what one forward keeps should fit into its caches.
_MAX_PROBE_TOKENS_ON_CPU = 1 << 11

# (sequences of the probes, batch row of each, requested positions) -> probabilities in row-major order.
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class MeasuredDependencies:
    """Dependencies measured by probe forwards.

    Args:
        dependencies (`torch.Tensor` of shape `(batch, positions, positions)`):
            `D[source, target]` among the candidates of each row, in [0, 1]; 0 on the diagonal, in padding and in
            the rows of sources that were not probed.
        num_probes (`torch.LongTensor` of shape `(batch,)`):
            Forward passes spent on each row.
        uncovered_mass (`torch.Tensor` of shape `(batch,)`):
            Largest probability mass of a source's tokens that were not probed, in [0, 1]. True dependencies are at
            most this much larger.
    """

    dependencies: torch.Tensor
    num_probes: torch.Tensor
    uncovered_mass: torch.Tensor


@torch.no_grad()
def measure_dependencies(  # noqa: PLR0913, every argument is a fact of the state or a choice of the caller
    predict: Predict,
    sequences: torch.Tensor,
    candidates: torch.Tensor,
    probabilities: torch.Tensor,
    mask_token_id: int,
    estimator: str = "expectation",
    sources: torch.Tensor | None = None,
    min_probability: float = 1e-7,
    generator: torch.Generator | None = None,
) -> MeasuredDependencies:
    """Measure `D[i, j] = E_{a ~ q_i} TV(q_j, q_j given x_i = a)` among the candidates of each row.

    Args:
        predict (`Callable`):
            Maps sequences, the batch row of each and the requested positions to probabilities, as in the loop.
        sequences (`torch.LongTensor` of shape `(batch, length)`):
            The states, masks included.
        candidates (`torch.BoolTensor` of shape `(batch, length)`):
            Masked positions; sources and targets.
        probabilities (`torch.Tensor` of shape `(num_candidates, vocabulary)`):
            Predictions for the candidates in these states, row-major.
        mask_token_id (`int`):
            Token that is never revealed; its mass is distributed over the others.
        estimator (`str`, *optional*, defaults to "expectation"):
            "expectation" weighs every token (for vocabularies above 1,024 the 32 most likely) by its probability;
            "argmax" reveals the most likely token only, which is a proxy and can be far below the expectation;
            "sample" reveals one drawn token, which is an unbiased estimate of the expectation.
        sources (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            Probe these candidates only.
        min_probability (`float`, *optional*, defaults to 1e-7):
            "expectation" does not probe less likely tokens; their mass is reported as uncovered.
        generator (`torch.Generator`, *optional*):
            Draws the tokens of "sample"; on the CPU.

    Returns:
        [`MeasuredDependencies`]

    Raises:
        ValueError: if `estimator` is unknown.
    """
    check_choice("estimator", estimator, TARGET_ESTIMATORS)
    batch = sequences.shape[0]
    rows, columns = candidates.nonzero(as_tuple=True)
    size = int(candidates.sum(dim=-1).max())
    flat_index = torch.full_like(sequences, -1)
    flat_index[rows, columns] = torch.arange(rows.numel(), device=rows.device)
    place = candidates.long().cumsum(dim=-1) - 1
    source, token, weight, uncovered = _plan(probabilities, mask_token_id, estimator, min_probability, generator)
    if sources is not None:
        is_chosen = sources[rows, columns][source]
        source, token, weight = source[is_chosen], token[is_chosen], weight[is_chosen]
        uncovered = uncovered * sources[rows, columns]
    dependencies = torch.zeros(batch, size, size, device=sequences.device)
    chunk = _num_probes_together(sequences, size * probabilities.shape[-1])
    for start in range(0, source.numel(), chunk):
        part = slice(start, start + chunk)
        probe_rows, probe_columns = rows[source[part]], columns[source[part]]
        revealed = sequences[probe_rows]
        revealed[torch.arange(revealed.shape[0], device=rows.device), probe_columns] = token[part]
        asked = candidates[probe_rows]
        probe, target = asked.nonzero(as_tuple=True)
        before = probabilities[flat_index[probe_rows[probe], target]]
        distance = total_variation(before, predict(revealed, probe_rows, asked)).float()
        at = (probe_rows[probe], place[probe_rows, probe_columns][probe], place[probe_rows[probe], target])
        dependencies.index_put_(at, weight[part][probe] * distance, accumulate=True)
    dependencies.diagonal(dim1=1, dim2=2).zero_()
    worst = torch.zeros(batch, device=rows.device).scatter_reduce(0, rows, uncovered.float(), "amax")
    return MeasuredDependencies(dependencies.clamp(max=1.0), torch.bincount(rows[source], minlength=batch), worst)


def _num_probes_together(sequences: torch.Tensor, num_elements: int) -> int:
    """Return how many probes one forward takes, given how many probabilities each of them returns."""
    most = _MAX_PROBE_ELEMENTS // num_elements
    if sequences.device.type == "cpu":
        most = min(most, _MAX_PROBE_TOKENS_ON_CPU // sequences.shape[1])
    return max(1, most)


def _plan(
    probabilities: torch.Tensor,
    mask_token_id: int,
    estimator: str,
    min_probability: float,
    generator: torch.Generator | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return source, token and weight of every probe, and the uncovered mass of every source."""
    mask_index = torch.tensor([mask_token_id], device=probabilities.device)
    weights = probabilities.float().index_fill(-1, mask_index, 0.0)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    if estimator != "expectation":
        token = weights.argmax(dim=-1)
        if estimator == "sample":
            noise = torch.rand(token.shape, generator=generator, dtype=torch.float64)
            token = inverse_transform(weights.double(), noise.to(token.device))
        source = torch.arange(token.numel(), device=token.device)
        return source, token, torch.ones_like(weights[:, 0]), torch.zeros_like(weights[:, 0])
    is_probed = weights > min_probability
    if weights.shape[-1] > _LARGEST_FULL_VOCABULARY:
        top = weights.topk(_NUM_TOP_TOKENS, dim=-1).indices
        is_probed &= torch.zeros_like(is_probed).scatter(-1, top, True)
    source, token = is_probed.nonzero(as_tuple=True)
    return source, token, weights[source, token], 1.0 - (weights * is_probed).sum(dim=-1)
