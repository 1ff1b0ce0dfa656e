"""The fit of a dependency head on held-out states, compared with predictors that do not look at the states."""

from dataclasses import dataclass

import numpy as np
import torch

from ..head.modeling_demask import DemaskHead
from .examples import Examples, collate_examples


LARGE_DEPENDENCY = 0.1
# Number of training states, evenly spaced, for the trivial predictors; more would not change a mean.
_MAX_TRIVIAL_STATES = 4096


@dataclass(frozen=True)
class PairPredictions:
    """Measured pairs of held-out states, with the predictions of a head.

    Args:
        predicted (`np.ndarray` of shape `(pairs,)`): Predicted dependencies, in [0, 1].
        measured (`np.ndarray` of shape `(pairs,)`): Measured ones, in [0, 1].
        distances (`np.ndarray` of shape `(pairs,)`): Position of the target minus that of the source.
    """

    predicted: np.ndarray
    measured: np.ndarray
    distances: np.ndarray


@torch.no_grad()
def predict_pairs(head: DemaskHead, held_out: Examples, batch_size: int = 64) -> PairPredictions:
    """Run a head on every measured pair of held-out states.

    Args:
        head ([`DemaskHead`]):
            The head, or a PEFT model around one.
        held_out (`Sequence[DependencyExample]`):
            The states.
        batch_size (`int`, *optional*, defaults to 64):
            States in a batch.

    Returns:
        [`PairPredictions`]

    Raises:
        ValueError: if no pair was measured in these states.
    """
    predicted, measured, distance = [], [], []
    for start in range(0, len(held_out), batch_size):
        batch = collate_examples([held_out[index] for index in range(start, min(start + batch_size, len(held_out)))])
        batch = {name: tensor.to(head.device) for name, tensor in batch.items()}
        is_labelled = _labelled(batch["labels"], batch["is_position"])
        predicted.append(head(**batch).dependencies[is_labelled].cpu().numpy())
        measured.append(batch["labels"][is_labelled].cpu().numpy())
        distance.append(_distances(batch["positions"])[is_labelled].cpu().numpy())
    if sum(map(len, measured)) == 0:
        raise ValueError(f"`held_out` must hold at least one measured pair, got none in {len(held_out)} states.")
    return PairPredictions(*map(np.concatenate, (predicted, measured, distance)))


def fit_of(
    head: DemaskHead,
    examples: Examples,
    held_out: Examples,
    batch_size: int = 64,
) -> dict[str, float]:
    """Compare a head on held-out states with two trivial predictors learned from the training states.

    Args:
        head ([`DemaskHead`]):
            The head.
        examples (`Sequence[DependencyExample]`):
            Training states, from which the trivial predictors take the mean, and the mean by distance.
        held_out (`Sequence[DependencyExample]`):
            States to report on.
        batch_size (`int`, *optional*, defaults to 64):
            States in a batch.

    Returns:
        `dict[str, float]` with `mae`, `r2` and `auc` (of "dependency above 0.1") for the head, the same with
        `_mean` and `_distance` for the trivial predictors, `mean` and `num_pairs` of the held-out pairs.
    """
    pairs = predict_pairs(head, held_out, batch_size)
    mean, by_distance = trivial_predictors(examples)
    predictions = {
        "": pairs.predicted,
        "_mean": np.full_like(pairs.measured, mean),
        "_distance": np.array([by_distance.get(int(distance), mean) for distance in pairs.distances]),
    }
    fit = {}
    for suffix, prediction in predictions.items():
        error = prediction - pairs.measured
        fit["mae" + suffix] = float(np.abs(error).mean())
        fit["r2" + suffix] = float(1 - (error**2).mean() / max(pairs.measured.var(), 1e-12))
        fit["auc" + suffix] = area_under_curve(prediction, pairs.measured > LARGE_DEPENDENCY)
    return {**fit, "mean": float(pairs.measured.mean()), "num_pairs": int(pairs.measured.size)}


def reliability_of(pairs: PairPredictions, num_bins: int = 10) -> list[dict[str, float]]:
    """Return mean prediction, mean measurement and count in equally filled bins of the prediction.

    Args:
        pairs ([`PairPredictions`]):
            Predicted and measured dependencies.
        num_bins (`int`, *optional*, defaults to 10):
            Number of bins; 10 are deciles.

    Returns:
        `list[dict[str, float]]` with `predicted`, `measured` and `num_pairs`, lowest prediction first.
    """
    order = np.argsort(pairs.predicted, kind="stable")
    bins = [part for part in np.array_split(order, num_bins) if part.size]
    return [
        {
            "predicted": float(pairs.predicted[part].mean()),
            "measured": float(pairs.measured[part].mean()),
            "num_pairs": int(part.size),
        }
        for part in bins
    ]


def trivial_predictors(examples: Examples) -> tuple[float, dict[int, float]]:
    """Return the mean dependency of measured pairs, and the mean at each distance, target minus source.

    Args:
        examples (`Sequence[DependencyExample]`):
            States, of which at most 4,096 are read.
    """
    values, distances = [], []
    stride = -(-len(examples) // _MAX_TRIVIAL_STATES)
    for index in range(0, len(examples), stride):
        example = examples[index]
        size = example.positions.numel()
        is_labelled = _labelled(example.labels[None], torch.ones(1, size, dtype=torch.bool))[0]
        values.append(example.labels[is_labelled].numpy())
        distances.append(_distances(example.positions[None])[0][is_labelled].numpy())
    value, distance = np.concatenate(values), np.concatenate(distances)
    keys, inverse = np.unique(distance, return_inverse=True)
    means = np.bincount(inverse, value) / np.bincount(inverse)
    return float(value.mean()), dict(zip(keys.tolist(), means.tolist(), strict=True))


def area_under_curve(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Return the probability that a positive scores above a negative, ties counting half (Mann-Whitney).

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Scores.
        is_positive (`np.ndarray` of bool of shape `(n,)`):
            Classes.

    Returns:
        `float` in [0, 1]; NaN if a class is empty.
    """
    num_positive, num_negative = int(is_positive.sum()), int((~is_positive).sum())
    if not num_positive or not num_negative:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[is_positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def _labelled(labels: torch.Tensor, is_position: torch.Tensor) -> torch.Tensor:
    off_diagonal = ~torch.eye(labels.shape[-1], dtype=torch.bool, device=labels.device)
    return (labels >= 0) & off_diagonal & is_position[:, None, :]


def _distances(positions: torch.Tensor) -> torch.Tensor:
    return positions[:, None, :] - positions[:, :, None]
