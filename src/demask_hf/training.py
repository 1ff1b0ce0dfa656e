"""Training of a dependency head with `transformers.Trainer`, and how well it fits."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from .modeling_demask import DemaskHead
from .targets import DependencyExample, collate_examples


LARGE_DEPENDENCY = 0.1


def train_head(
    head: DemaskHead,
    examples: list[DependencyExample],
    held_out: list[DependencyExample],
    output_dir: str | Path,
    **arguments: Any,
) -> dict[str, float]:
    """Train a head on measured dependencies and return its fit on held-out states.

    An interrupted run goes on from its last checkpoint in `output_dir`.

    Args:
        head ([`DemaskHead`]):
            The head, changed in place.
        examples (`list[DependencyExample]`):
            Training states.
        held_out (`list[DependencyExample]`):
            States that are not trained on.
        output_dir (`str` or `Path`):
            Folder of the checkpoints.
        arguments:
            Arguments of `TrainingArguments`, such as `max_steps`, `learning_rate` or `seed`.

    Returns:
        `dict[str, float]`: the metrics of [`fit_of`].
    """
    trainer = Trainer(
        model=head,
        args=TrainingArguments(
            output_dir=str(output_dir),
            remove_unused_columns=False,
            label_names=["labels"],
            report_to="none",
            **arguments,
        ),
        train_dataset=examples,
        eval_dataset=held_out,
        data_collator=collate_examples,
    )
    has_checkpoint = any(Path(output_dir).glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=has_checkpoint)
    head.eval()
    return fit_of(head, examples, held_out)


@torch.no_grad()
def fit_of(
    head: DemaskHead, examples: list[DependencyExample], held_out: list[DependencyExample], batch_size: int = 64
) -> dict[str, float]:
    """Compare a head on held-out states with two trivial predictors learned from the training states.

    Args:
        head ([`DemaskHead`]):
            The head.
        examples (`list[DependencyExample]`):
            Training states, from which the trivial predictors take the mean, and the mean by distance.
        held_out (`list[DependencyExample]`):
            States to report on.
        batch_size (`int`, *optional*, defaults to 64):
            States in a batch.

    Returns:
        `dict[str, float]` with `mae`, `r2` and `auc` (of "dependency above 0.1") for the head, and `r2_distance`,
        `mae_distance`, `mae_mean` of the trivial predictors, `mean` and `num_pairs` of the held-out pairs.
    """
    predicted, measured, distance = [], [], []
    for start in range(0, len(held_out), batch_size):
        batch = collate_examples(held_out[start : start + batch_size])
        batch = {name: tensor.to(head.device) for name, tensor in batch.items()}
        is_labelled = _labelled(batch["labels"], batch["is_position"])
        predicted.append(head(**batch).dependencies[is_labelled].cpu().numpy())
        measured.append(batch["labels"][is_labelled].cpu().numpy())
        distance.append(_distances(batch["positions"])[is_labelled].cpu().numpy())
    prediction, target, distances = map(np.concatenate, (predicted, measured, distance))
    mean, by_distance = _trivial_predictors(examples)
    trivial = np.array([by_distance.get(int(d), mean) for d in distances])
    variance = ((target - target.mean()) ** 2).mean()
    return {
        "mae": float(np.abs(prediction - target).mean()),
        "r2": float(1 - ((prediction - target) ** 2).mean() / variance),
        "auc": area_under_curve(prediction, target > LARGE_DEPENDENCY),
        "mae_mean": float(np.abs(mean - target).mean()),
        "mae_distance": float(np.abs(trivial - target).mean()),
        "r2_distance": float(1 - ((trivial - target) ** 2).mean() / variance),
        "mean": float(target.mean()),
        "num_pairs": int(target.size),
    }


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


def _labelled(labels: torch.Tensor, is_position: torch.BoolTensor) -> torch.BoolTensor:
    off_diagonal = ~torch.eye(labels.shape[-1], dtype=torch.bool, device=labels.device)
    return (labels >= 0) & off_diagonal & is_position[:, None, :]


def _distances(positions: torch.LongTensor) -> torch.LongTensor:
    return positions[:, None, :] - positions[:, :, None]


def _trivial_predictors(examples: list[DependencyExample]) -> tuple[float, dict[int, float]]:
    """Return the mean dependency, and the mean at each signed distance."""
    values, distances = [], []
    for example in examples:
        is_labelled = _labelled(example.labels[None], torch.ones(1, example.positions.numel(), dtype=torch.bool))[0]
        values.append(example.labels[is_labelled].numpy())
        distances.append(_distances(example.positions[None])[0][is_labelled].numpy())
    value, distance = np.concatenate(values), np.concatenate(distances)
    keys, inverse = np.unique(distance, return_inverse=True)
    means = np.bincount(inverse, value) / np.bincount(inverse)
    return float(value.mean()), dict(zip(keys.tolist(), means.tolist(), strict=True))
