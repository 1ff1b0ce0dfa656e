"""Collect training examples for a head: measure dependencies in states of a backbone and write shards."""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..backbones.backbone import backbone_facts
from ..files import keep_facts, write_text
from ..generation.mixin import DemaskGenerationMixin
from ..models.fingerprints import model_facts
from .examples import DependencyExample
from .prompts import TokenizedPrompt, prompts_digest
from .states import CollectionSettings, MeasuredStates
from .store import COLLECTION_FILE, SHARDS, StoredExamples, check_shard, shard_path, write_shard


def collect(
    model: DemaskGenerationMixin,
    prompts: Sequence[TokenizedPrompt],
    out: str | Path,
    settings: CollectionSettings,
    provenance: dict[str, Any] | None = None,
    is_verbose: bool = True,
) -> StoredExamples | None:
    """Draw and measure states and write them as shards; resumes after the last complete shard of an earlier run.

    Under `accelerate launch` or `torchrun` the processes share the shards by rank; the result does not depend on
    their number.

    Args:
        model ([`DemaskGenerationMixin`]):
            The backbone.
        prompts (`Sequence[TokenizedPrompt]`):
            Prompts with answers.
        out (`str` or `Path`):
            Folder of the collection.
        settings ([`CollectionSettings`]):
            What to draw and how to measure.
        provenance (`dict`, *optional*):
            Facts to record, such as the model's id and revision and the name of the data.
        is_verbose (`bool`, *optional*, defaults to `True`):
            Print the estimated size and show progress with the remaining time.

    Returns:
        [`StoredExamples`]: the whole collection; `None` on processes other than the first.

    Raises:
        ValueError: if the folder holds another collection, or the model gives numbers that are not finite.
        OSError: if the disk has too little space, or becomes full; the same call then resumes.
    """
    from accelerate import PartialState

    state = PartialState(cpu=model.device.type == "cpu")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    # In every process: without a common disk, only the first one sees the file.
    facts = _facts(model, prompts, settings, provenance or {})
    if state.is_main_process:
        keep_facts(out / COLLECTION_FILE, facts, "collection", [SHARDS])
        missing = [index for index in range(settings.num_shards) if not shard_path(out, index).exists()]
        message = check_room(out, model.config.hidden_size, settings, len(missing))
        if is_verbose:
            tqdm.write(message)
    state.wait_for_everyone()
    states = MeasuredStates(model, prompts, settings)
    own = range(state.process_index, settings.num_shards, state.num_processes)
    sizes = {index: len(states.numbers(index)) for index in own}
    fill_shards(out, sizes, states.shard, is_shown=is_verbose and state.is_local_main_process, facts=facts)
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    collection = StoredExamples(out)
    write_text(out / "README.md", dataset_card(collection))
    return collection


def fill_shards(
    out: Path,
    sizes: dict[int, int],
    measure: Callable[[int], Iterable[list[DependencyExample]]],
    states_dtype: torch.dtype = torch.bfloat16,
    is_shown: bool = True,
    facts: dict[str, Any] | None = None,
) -> None:
    """Measure and write the missing shards one by one, after a check of those that are there.

    Args:
        out (`Path`):
            Folder of the collection.
        sizes (`dict[int, int]`):
            Numbers of the shards to write, with the number of states in each.
        measure (`Callable[[int], Iterable[list[DependencyExample]]]`):
            Yields the batches of a shard, a function of its number alone.
        states_dtype (`torch.dtype`, *optional*, defaults to `torch.bfloat16`):
            Precision of the hidden states on disk.
        is_shown (`bool`, *optional*, defaults to `True`):
            Show progress with the remaining time.
        facts (`dict`, *optional*):
            Facts of the collection; by default those in the folder.
    """
    missing = [index for index in sizes if not shard_path(out, index).exists()]
    for index in sizes.keys() - missing:
        check_shard(shard_path(out, index), facts)
    total = sum(sizes[index] for index in missing)
    with tqdm(total=total, unit="state", disable=not is_shown, desc=out.name) as bar:
        for index in missing:
            examples = []
            for batch in measure(index):
                examples += batch
                bar.update(len(batch))
            write_shard(shard_path(out, index), examples, states_dtype, facts)


def check_room(out: Path, hidden_size: int, settings: CollectionSettings, num_missing: int) -> str:
    """Return a sentence on the size of the missing shards; on average, half of an answer is masked.

    Raises:
        OSError: if the disk of `out` has less free space.
    """
    positions = settings.answer_length / 2
    bytes_per_state = positions * (2 * hidden_size + 16 + 4 * settings.num_sources) + 4 * settings.num_sources + 20
    num_states = min(num_missing * settings.states_per_shard, settings.num_states)
    if num_missing == 0:
        return f"all {settings.num_shards} shards are in {out} already"
    size, free = num_states * bytes_per_state, shutil.disk_usage(out).free
    if size > free:
        raise OSError(
            f"`out` must have space for about {_bytes(size)} ({num_states} states), got {_bytes(free)} free."
        )
    return (
        f"{num_states} states in {num_missing} shards: about {_bytes(size)}, at most {_bytes(2 * size)}; "
        f"{_bytes(free)} free in {out}"
    )


def dataset_card(collection: StoredExamples) -> str:
    """Return the dataset card of a collection as Markdown with front matter."""
    facts = collection.facts
    lines = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return (
        "---\ntags:\n- demask\n- masked-diffusion\n---\n\n# Dependencies measured in states of a backbone\n\n"
        f"{len(collection)} partly masked answers with the dependencies `D[source, target]` (total variation by which "
        "revealing the source changes the prediction of the target) of some random sources. "
        "Written by `demask-hf collect`; read it with `demask_hf.training.store.StoredExamples`.\n\n"
        f"| fact | value |\n|---|---|\n{lines}\n\n"
        "Each shard holds, state after state: `hidden_states` (bf16, one row per masked position), `positions`, "
        "`confidence`, `entropy` (nats), `tokens` (most likely), `sources` (indices into the positions), `targets` "
        "(one row of dependencies per source), `num_positions` and `num_sources` of each state, `uncovered_mass` "
        "(probability that the estimator left out), `records` (number of the prompt) and `checksums`.\n"
    )


def _facts(model: Any, prompts: Sequence[TokenizedPrompt], settings: CollectionSettings, provenance: dict) -> dict:
    return {
        **provenance,
        **dataclasses.asdict(settings),
        "num_shards": settings.num_shards,
        "num_prompts": len(prompts),
        "prompts_sha256": prompts_digest(prompts),
        "backbone": backbone_facts(model),
        **model_facts(model),
    }


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
