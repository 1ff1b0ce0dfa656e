"""Collect training examples for a head: measure dependencies in states of a backbone and write shards."""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..backbones.backbone import backbone_facts, text_config
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
    measure: Callable[[list[list[int]]], Iterator[list[DependencyExample]]] | None = None,
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
        measure (`Callable`, *optional*):
            Measures states elsewhere: from the numbers of the states in each batch to the measured batches, in the
            same order. By default `model` measures them here.

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
        message = check_room(out, text_config(model).hidden_size, settings, len(missing))
        if is_verbose:
            tqdm.write(message)
    state.wait_for_everyone()
    states = MeasuredStates(model, prompts, settings)
    own = range(state.process_index, settings.num_shards, state.num_processes)
    sizes = {index: len(states.numbers(index)) for index in own}
    shard = states.shard if measure is None else _from_elsewhere(measure, out, states, sizes)
    fill_shards(out, sizes, shard, is_shown=is_verbose and state.is_local_main_process, facts=facts)
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    collection = StoredExamples(out)
    write_text(out / "README.md", dataset_card(collection))
    return collection


def _from_elsewhere(
    measure: Callable[[list[list[int]]], Iterator[list[DependencyExample]]],
    out: Path,
    states: MeasuredStates,
    indices: Iterable[int],
) -> Callable[[int], Iterable[list[DependencyExample]]]:
    """Return a function that takes the batches of a missing shard from one stream of all of them."""
    batches = {index: states.batches(index) for index in indices if not shard_path(out, index).exists()}
    stream = measure([list(numbers) for own in batches.values() for numbers in own])
    return lambda index: (next(stream) for _ in batches[index])


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
    num_states = min(num_missing * settings.states_per_shard, settings.num_states)
    if num_missing == 0:
        return f"all {settings.num_shards} shards are in {out} already"
    size, free = num_states * bytes_per_state(hidden_size, settings), shutil.disk_usage(out).free
    if size > free:
        raise OSError(
            f"`out` must have space for about {size_text(size)} ({num_states} states), got {size_text(free)} free."
        )
    return (
        f"{num_states} states in {num_missing} shards: about {size_text(size)}, at most {size_text(2 * size)}; "
        f"{size_text(free)} free in {out}"
    )


def bytes_per_state(hidden_size: int, settings: CollectionSettings) -> float:
    """Return the mean size of a state on disk, in bytes, if half of an answer is masked on average."""
    per_position = 2 * hidden_size + 16 + 4 * settings.num_sources
    return settings.answer_length / 2 * per_position + 4 * settings.num_sources + 20


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


def size_text(size: float) -> str:
    """Return a number of bytes in words, such as "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
