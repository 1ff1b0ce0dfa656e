"""Places to write in given sequences, and states of them to train a dependency head on: what both studies share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerFast

from demask_hf.backbones.backbone import Backbone, backbone_facts
from demask_hf.files import keep_facts
from demask_hf.functional.masking import random_mask
from demask_hf.functional.sampling import Sampling
from demask_hf.tiny.head import random_states
from demask_hf.training.collection import fill_shards
from demask_hf.training.examples import DependencyExample, measure_examples
from demask_hf.training.store import COLLECTION_FILE, SHARDS, StoredExamples


TEMPERATURE = 1.0
_SHARD = 32
# All tokens of all sources of a state are hundreds of forwards.
_STATES_TOGETHER = {"sample": _SHARD, "expectation": 4}


@dataclass(frozen=True)
class Batch:
    """Left-padded sequences with the places to write.

    Args:
        truth (`torch.LongTensor` of shape `(rows, length)`): Their token ids.
        attention_mask (`torch.LongTensor` of shape `(rows, length)`): 0 at padding.
        is_open (`torch.BoolTensor` of shape `(rows, length)`): The places to write.
    """

    truth: torch.Tensor
    attention_mask: torch.Tensor
    is_open: torch.Tensor

    def masked(self, mask_token_id: int) -> torch.Tensor:
        """Return the sequences with all these places masked."""
        return self.truth.masked_fill(self.is_open, mask_token_id)


class Domain(Protocol):
    """Sequences of one kind, and a model of them.

    Args:
        model (`Any`): The model, with our `generate`.
        tokenizer (`PreTrainedTokenizerFast`): Its tokenizer.
        tasks (`tuple[str, str]`): What may be written: a whole part, and a random span.
        parts (`dict[int, int]`): Heads are trained on the states of the first one, two, ... of these parts.
        rows_together (`int`): Rows that are decoded together.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    tasks: tuple[str, str]
    parts: dict[int, int]
    rows_together: int

    def batch(self, items: Sequence[Any], task: str, seed: int = 0) -> Batch:
        """Return items with the places of a task to write."""

    def length(self, item: Any) -> int:
        """Return the length of an item, to put those of about the same length together."""

    def record(self, sequence: torch.Tensor, is_open: torch.Tensor) -> dict[str, Any]:
        """Return what was written in a sequence as text (`written`), and what can be told of it."""


@dataclass(frozen=True)
class Kind:
    """Which states are drawn and how they are measured.

    Args:
        estimator (`str`): As in [`measure_examples`].
        num_sources (`int`): Likewise.
        share_of_spans (`float`): Share of the states that are of a random span; the others are of the whole part.
        share_of_whole (`float`): Share in which everything is masked. In the others a random part is visible: what
            the sequence has, or as often what the model drew.
        is_visited (`bool`): Whether they are states that decoding with the model's head visits, instead; `demask` by
            confidence or by influence, with a random bound.
    """

    estimator: str
    num_sources: int
    share_of_spans: float
    share_of_whole: float
    is_visited: bool = False


# States in which everything is masked come first in every decoding, and random ratios hardly ever mask all.
KINDS = {
    "train": Kind("sample", 8, 1 / 3, 0.25),
    "visited": Kind("sample", 8, 1 / 3, 0.0, is_visited=True),
    "whole": Kind("expectation", 64, 0.0, 1.0),
    "held_out_visited": Kind("expectation", 64, 0.0, 0.0, is_visited=True),
}
# Where the likely tokens of a source leave much out, its expectation is a mean of draws; all sources are measured.
_LARGEST_VOCABULARY, _NUM_DRAWS = 1024, 24
_BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.6)


def measured_states(
    domain: Domain, items: Sequence[Any], folder: Path, kind: str, count: int, seed: int
) -> StoredExamples:
    """Draw states and measure them at the temperature in use; resumes after the last complete shard.

    Args:
        domain ([`Domain`]): Model and tasks.
        items (`Sequence`): Where the states come from.
        folder (`Path`): Folder of the collection.
        kind (`str`): One of `KINDS`.
        count (`int`): Number of states.
        seed (`int`): A shard is a function of the seed and its number.
    """
    num_shards = -(-count // _SHARD)
    facts = {"num_states": count, "num_shards": num_shards, "seed": seed, "kind": kind, **vars(KINDS[kind])}
    facts |= {"num_items": len(items), "temperature": TEMPERATURE, "backbone": backbone_facts(domain.model)}
    keep_facts(folder / COLLECTION_FILE, facts, "collection", [SHARDS])
    sizes = {index: min(_SHARD, count - index * _SHARD) for index in range(num_shards)}

    def shard(index: int) -> list[list[DependencyExample]]:
        generator = torch.Generator().manual_seed(1000 * seed + index)
        # No item twice in a shard if there are enough.
        order = torch.randperm(len(items), generator=generator).repeat(-(-sizes[index] // len(items)))
        chosen = sorted((items[place] for place in order[: sizes[index]].tolist()), key=domain.length)
        size = _STATES_TOGETHER[KINDS[kind].estimator]
        parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        return [measured(domain, part, KINDS[kind], generator) for part in parts]

    fill_shards(folder, sizes, shard, facts=facts)
    return StoredExamples(folder)


def measured(domain: Domain, items: Sequence[Any], kind: Kind, generator: torch.Generator) -> list[DependencyExample]:
    """Return one measured state of each item."""
    seed, mask = int(torch.randint(1 << 40, (), generator=generator)), domain.tokenizer.mask_token_id
    batches = [domain.batch(items, task, seed) for task in domain.tasks]
    truth, attention_mask = batches[0].truth, batches[0].attention_mask
    draws = torch.rand(3, len(items), 1, generator=generator)
    is_open = torch.where(draws[0] < kind.share_of_spans, batches[1].is_open, batches[0].is_open)
    seeds = [seed + row for row in range(len(items))]
    if kind.is_visited:
        states = visited_states(domain, Batch(truth, attention_mask, is_open), seeds)
    elif kind.share_of_whole < 1:
        candidates = torch.where(draws[1] < kind.share_of_whole, is_open, random_mask(is_open, generator))
        strategy: dict[str, Any] = {"name": "distance"}
        drawn = decoded(domain, Batch(truth, attention_mask, is_open), strategy, seeds).sequences
        states = torch.where(draws[2] < 0.5, truth, drawn).masked_fill(candidates, mask)
    else:
        states = truth.masked_fill(is_open, mask)
    is_large = kind.estimator == "expectation" and len(domain.tokenizer) > _LARGEST_VOCABULARY
    measurements = [
        measure_examples(
            Backbone.of(domain.model),
            states,
            None if attention_mask.all() else attention_mask,
            states == mask,
            kind.num_sources,
            generator,
            "sample" if is_large else kind.estimator,
            min_probability=0.01,
            sampling=Sampling(temperature=TEMPERATURE),
        )
        for _ in range(_NUM_DRAWS if is_large else 1)
    ]
    return [
        replace(same[0], targets=torch.stack([example.targets for example in same]).mean(dim=0))
        for same in zip(*measurements, strict=True)
    ]


def visited_states(domain: Domain, batch: Batch, seeds: list[int]) -> torch.Tensor:
    """Decode with the model's head, and return a random state of each row in which something is masked."""
    random = Random(seeds[0])
    strategy = {"name": "demask", "dependency_bound": random.choice(_BOUNDS)}
    strategy["order"] = random.choice(("confidence", "influence"))
    states = random_states(decoded(domain, batch, strategy, seeds, output_history=True), random)
    is_done = ~(states == domain.tokenizer.mask_token_id).any(dim=-1)
    return torch.where(is_done[:, None], batch.masked(domain.tokenizer.mask_token_id), states)


def decoded(domain: Domain, batch: Batch, strategy: dict[str, Any], seeds: list[int], **options: Any) -> Any:
    """Return the output of `generate` for a batch, at the temperature in use."""
    return domain.model.generate(
        batch.masked(domain.tokenizer.mask_token_id),
        batch.attention_mask,
        strategy=strategy,
        max_new_tokens=0,
        temperature=TEMPERATURE,
        seed=seeds,
        return_dict_in_generate=True,
        **options,
    )


def training_states(domain: Domain, items: Sequence[Any], work: Path, count: int) -> list[DependencyExample]:
    """Return the first states of training items, in memory; `count` is one of the domain's parts."""
    parts = [(total, own) for total, own in domain.parts.items() if total <= count]
    found: list[DependencyExample] = []
    for seed, (total, own) in enumerate(parts, start=1):
        stored = measured_states(domain, items, work / f"states_{total}", "train", own, seed)
        found += [stored[index] for index in range(len(stored))]
    return found
