"""From a bare backbone to a head: what each recipe measures and trains, on which prompts, and what it will cost."""

import hashlib
import heapq
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..backbones.backbone import backbone_facts
from ..files import write_text
from ..generation.mixin import DemaskGenerationMixin
from .collection import bytes_per_state
from .examples import collate_examples
from .prompts import TokenizedPrompt, prompt_of
from .states import CollectionSettings, MeasuredStates
from .trainer import new_head


#: Parts of the prompts: what a head is trained on must not verify or calibrate it.
PARTS = ("train", "verify", "calibrate")
# States and steps that are timed.
_HANDFUL = 8
_TIMED_STEPS = 5


@dataclass(frozen=True)
class Recipe:
    """How much is measured and trained.

    Args:
        data (`str`, *optional*): Dataset of the Hub that is used where none is named.
        num_states (`int`): States to train on.
        minutes (`float`, *optional*): Measure fewer states if they would take longer than this, but at least 64.
        answer_length (`int`): Longest answer, in tokens, where the model's settings name no length.
        num_sources (`int`): Positions revealed in each state.
        trajectory_ratio (`float`): Share of the states that decoding visits, in [0, 1].
        width (`int`): Width of the head.
        steps (`int`): Optimizer steps.
        batch_size (`int`): States of a step.
        num_verified (`int`): Prompts that verify the bound.
        num_draws (`int`): Monte Carlo draws for each verified set.
        num_calibrated (`int`): Prompts that calibrate the bound.
        bounds (`tuple[float, ...]`): Candidates for the bound.
    """

    data: str | None
    num_states: int
    minutes: float | None
    answer_length: int
    num_sources: int
    trajectory_ratio: float
    width: int
    steps: int
    batch_size: int
    num_verified: int
    num_draws: int
    num_calibrated: int
    bounds: tuple[float, ...]


#: "paper" has the two stages (targets on disk, then the training) and the data of arXiv 2604.02560. The numbers of
#: states and steps are ours: the paper's text does not give them.
RECIPES = {
    # With 200 prompts a mean loss of 0.02 is certified at the default limit, with 60 hardly any.
    "quick": Recipe(None, 4_000, 30, 256, 8, 0.5, 64, 2_000, 32, 12, 64, 200, (0.03, 0.06, 0.1)),
    "paper": Recipe(
        "allenai/tulu-3-sft-mixture", 100_000, None, 256, 8, 0.0, 256, 20_000, 64, 100, 256, 300,
        (0.01, 0.02, 0.03, 0.06, 0.1, 0.2),
    ),
}  # fmt: skip


def chosen_records(records: Iterable[dict[str, Any]], largest: int, seed: int) -> list[dict[str, Any]]:
    """Return at most `largest` records with different prompts, in a random order that depends on the seed only.

    Of equal prompts the first counts. The source is read once, and only the chosen records are kept.
    """
    seen = set()

    def digests() -> Iterable[tuple[str, dict[str, Any]]]:
        for record in records:
            prompt = json.dumps(prompt_of(record))
            digest = hashlib.sha256(f"{seed}/{prompt}".encode()).hexdigest()
            if digest not in seen:
                seen.add(digest)
                yield digest, record

    return [record for _, record in heapq.nsmallest(largest, digests(), key=lambda pair: pair[0])]


def write_parts(records: Sequence[dict[str, Any]], recipe: Recipe, folder: Path) -> dict[str, int]:
    """Write the parts of the prompts as JSON Lines, and return the number in each.

    Args:
        records (`Sequence[dict]`):
            What [`chosen_records`] returns.
        recipe ([`Recipe`]):
            Numbers of prompts that verify and calibrate; the others are trained on.
        folder (`Path`):
            Where `train.jsonl`, `verify.jsonl` and `calibrate.jsonl` are written.

    Raises:
        ValueError: if fewer prompts than are verified and calibrated with are left to train on.
    """
    num_checked = recipe.num_verified + recipe.num_calibrated
    if len(records) < 2 * num_checked:
        raise ValueError(
            f"`data` must hold at least {2 * num_checked} different prompts, of which {recipe.num_verified} verify "
            f"and {recipe.num_calibrated} calibrate the bound, got {len(records)}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    ends = (recipe.num_verified, num_checked)
    parts = dict(zip(PARTS, (records[ends[1] :], records[: ends[0]], records[ends[0] : ends[1]]), strict=True))
    for name, rows in parts.items():
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return {name: len(rows) for name, rows in parts.items()}


@dataclass(frozen=True)
class Estimate:
    """What a head costs on this machine, from a timed handful of states.

    Args:
        num_states (`int`): States that the recipe measures here.
        answer_length (`int`): Length of an answer in tokens.
        seconds_per_state (`float`): To measure one state.
        seconds_per_step (`float`): Of an optimizer step.
        memory (`float`): Most memory in use while measuring, in bytes: of the GPU, else of the process.
        disk (`float`): States on disk, in bytes.
        device (`str`): Type of the device.
        hours (`dict[str, float]`): Hours of each stage. Those of verify and calibrate follow from the number of
            sequences in their forward passes, and are rough.
    """

    num_states: int
    answer_length: int
    seconds_per_state: float
    seconds_per_step: float
    memory: float
    disk: float
    device: str
    hours: dict[str, float]


def estimate(
    model: DemaskGenerationMixin, prompts: Sequence[TokenizedPrompt], settings: CollectionSettings, recipe: Recipe
) -> Estimate:
    """Measure a handful of states and train a few steps on them, and return what all of it will cost.

    Args:
        model ([`DemaskGenerationMixin`]):
            The backbone.
        prompts (`Sequence[TokenizedPrompt]`):
            Prompts with answers.
        settings ([`CollectionSettings`]):
            What to draw and how to measure; the number of states is that of the recipe.
        recipe ([`Recipe`]):
            How much is measured.
    """
    handful = min(_HANDFUL, settings.batch_size)
    few = MeasuredStates(model, prompts, replace(settings, num_states=2 * handful, batch_size=handful))
    # The first batch also pays for what happens once.
    few.__getitems__(range(handful))
    started = time.perf_counter()
    examples = few.__getitems__(range(handful, 2 * handful))
    per_state = (time.perf_counter() - started) / handful
    num_states = settings.num_states
    if recipe.minutes is not None:
        num_states = max(64, min(num_states, int(60 * recipe.minutes / per_state)))
    per_step = _step_seconds(model, [*examples] * -(-recipe.batch_size // handful), recipe)
    # Sequences in the forward passes of a stage, at the price of those that measure a state.
    per_sequence = per_state / (1 + settings.num_sources)
    verified = recipe.num_verified * 3 * recipe.num_draws * 3
    calibrated = recipe.num_calibrated * len(recipe.bounds) * 4 * settings.answer_length
    seconds = {
        "collect": num_states * per_state,
        "train": recipe.steps * per_step,
        "verify": verified * per_sequence,
        "calibrate": calibrated * per_sequence,
    }
    return Estimate(
        num_states,
        settings.answer_length,
        per_state,
        per_step,
        _peak_memory(),
        num_states * bytes_per_state(model.config.hidden_size, settings),
        model.device.type,
        {name: value / 3600 for name, value in seconds.items()},
    )


def _step_seconds(model: Any, examples: list[Any], recipe: Recipe) -> float:
    """Return the seconds of an optimizer step of a new head."""
    head = new_head(backbone_facts(model), 0, width=recipe.width).to(model.device)
    optimizer = torch.optim.AdamW(head.parameters())
    batch = {name: value.to(model.device) for name, value in collate_examples(examples[: recipe.batch_size]).items()}
    started = 0.0
    for step in range(1 + _TIMED_STEPS):
        if step == 1:
            started = time.perf_counter()
        head(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / _TIMED_STEPS


def _peak_memory() -> float:
    """Return the most memory that was in use, in bytes."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    import resource

    # In kibibytes on Linux.
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
