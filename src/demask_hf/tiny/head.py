"""Training of the small checkpoint's dependency head on measured dependencies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from ..backbones.backbone import Backbone, backbone_facts
from ..files import keep_facts
from ..functional.masking import random_mask
from ..head.modeling_demask import DemaskHead
from ..models.dream.modeling_dream import DreamModel
from ..tasks import TaskExample, TaskFamily
from ..training.collection import fill_shards
from ..training.examples import DependencyExample, measure_examples
from ..training.store import COLLECTION_FILE, SHARDS, StoredExamples
from ..training.trainer import new_head, train_head
from .backbone import ANSWER_LENGTH, MIXTURE


STATES_PER_BATCH = 48
NUM_SOURCES = 8
# Batches of states: masked at random, then visited by decoding with the first head.
NUM_RANDOM_BATCHES, NUM_VISITED_BATCHES, NUM_HELD_OUT_BATCHES = 140, 100, 12
NUM_HEAD_STEPS = 4_000


class StateSampler:
    """Draws partly masked answers of the task mixture.

    Args:
        model ([`DreamModel`]): The trained backbone.
        tokenizer (`PreTrainedTokenizerFast`): Its tokenizer.
        seed (`int`): Seed of prompts, masks and noise.
        mixture (`Mapping[TaskFamily, float]`, *optional*): Weight of each family; by default as shipped.
    """

    def __init__(
        self,
        model: DreamModel,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
        mixture: Mapping[TaskFamily, float] = MIXTURE,
    ):
        self.model, self.tokenizer, self.seed, self.mixture = model, tokenizer, seed, mixture
        self.backbone = Backbone.of(model)

    def measure(self, index: int, split: str, is_visited: bool) -> list[DependencyExample]:
        """Return the measured states of batch `index`, from decoding with the head or from random masks."""
        random = Random(f"{self.seed}/{split}/{index}/{is_visited}")
        generator = torch.Generator().manual_seed(random.getrandbits(62))
        families = random.choices(list(self.mixture), list(self.mixture.values()), k=STATES_PER_BATCH)
        examples = [next(family.examples(split, seed=random.getrandbits(48))) for family in families]
        return self.measure_prompts(examples, random, generator, is_visited)

    def measure_prompts(
        self, examples: Sequence[TaskExample], random: Random, generator: torch.Generator, is_visited: bool
    ) -> list[DependencyExample]:
        """Return the measured states of given examples, from decoding with the head or from random masks."""
        inputs = self.tokenizer([example.prompt for example in examples], padding=True, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        if is_visited:
            answers = self._visited_states(inputs, random)
        else:
            answers = self._randomly_masked([example.answer for example in examples], generator)
        sequences = torch.cat([inputs["input_ids"], answers.to(self.model.device)], dim=1)
        attention_mask = torch.nn.functional.pad(inputs["attention_mask"], (0, ANSWER_LENGTH), value=1)
        candidates = sequences == self.tokenizer.mask_token_id
        ends = (sequences == self.tokenizer.eos_token_id) & (
            torch.arange(sequences.shape[1], device=sequences.device) >= inputs["input_ids"].shape[1]
        )
        candidates &= ends.cumsum(dim=-1) == 0
        is_unfinished = candidates.any(dim=-1)
        if not is_unfinished.any():
            return []
        return measure_examples(
            self.backbone,
            sequences[is_unfinished],
            attention_mask[is_unfinished],
            candidates[is_unfinished],
            NUM_SOURCES,
            generator,
        )

    def _randomly_masked(self, answers: list[str], generator: torch.Generator) -> torch.Tensor:
        """Return the given answers, padded, masked at ratios over (0, 1); a fifth of the rows entirely."""
        rows = torch.full((len(answers), ANSWER_LENGTH), self.tokenizer.eos_token_id)
        for row, tokens in enumerate(self.tokenizer(answers)["input_ids"]):
            rows[row, : len(tokens)] = torch.tensor(tokens)
        masked = random_mask(torch.ones_like(rows, dtype=torch.bool), generator)
        masked |= torch.rand(len(answers), 1, generator=generator) < 0.2
        return rows.masked_fill(masked, self.tokenizer.mask_token_id)

    def _visited_states(self, inputs: dict, random: Random) -> torch.Tensor:
        """Decode with the head at a random bound and temperature 0 or 1, and return a random state of each row."""
        output: Any = self.model.generate(
            **inputs,
            strategy="demask",
            dependency_bound=random.choice((0.03, 0.1, 0.3)),
            temperature=float(random.random() < 0.5),
            seed=[random.getrandbits(48) for _ in range(len(inputs["input_ids"]))],
            max_new_tokens=ANSWER_LENGTH,
            output_history=True,
            return_dict_in_generate=True,
        )
        return random_states(output, random)[:, -ANSWER_LENGTH:].cpu()


def random_states(output: Any, random: Random) -> torch.Tensor:
    """Return a random state of each row of a decoding with its history, not the one before the first pass.

    A row that was written in one pass is returned as it was written.
    """
    steps = [random.randrange(1, max(2, count)) for count in output.num_forward_passes.tolist()]
    return torch.stack([output.history[step][row] for row, step in enumerate(steps)])


def measured_states(
    sampler: StateSampler, folder: Path, num_batches: int, split: str, is_visited: bool
) -> list[DependencyExample]:
    """Measure batches of states, one shard each, and read them all; resumes after the last complete shard."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"num_shards": num_batches, "seed": sampler.seed, "split": split, "is_visited": is_visited}
    keep_facts(folder / COLLECTION_FILE, facts, "collection", [SHARDS])

    def measure(index: int) -> list[list[DependencyExample]]:
        return [sampler.measure(index, split, is_visited)]

    fill_shards(folder, dict.fromkeys(range(num_batches), STATES_PER_BATCH), measure, torch.float32)
    stored = StoredExamples(folder)
    return [stored[index] for index in range(len(stored))]


def build_head(
    model: DreamModel,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    work: Path,
    mixture: Mapping[TaskFamily, float] = MIXTURE,
    num_batches: tuple[int, int] = (NUM_RANDOM_BATCHES, NUM_VISITED_BATCHES),
) -> tuple[DemaskHead, dict[str, float]]:
    """Measure dependencies and train the head in two rounds; return it with its held-out fit.

    The first round uses randomly masked answers. Decoding with its head then provides visited states, and the second
    head, trained from scratch on both, is the final one.
    """
    sampler = StateSampler(model, tokenizer, seed, mixture)
    num_random, num_visited = num_batches
    states = measured_states(sampler, work / "random", num_random, "train", False)
    held_out = measured_states(sampler, work / "held_out", NUM_HELD_OUT_BATCHES, "validation", False)
    head, _ = _train(model, states, held_out, seed, work / "head-1", NUM_HEAD_STEPS // 2)
    model.set_demask_head(head)
    states += measured_states(sampler, work / "visited", num_visited, "train", True)
    held_out += measured_states(sampler, work / "held_out_visited", NUM_HELD_OUT_BATCHES, "validation", True)
    return _train(model, states, held_out, seed, work / "head-2", NUM_HEAD_STEPS)


def _train(
    model: DreamModel,
    states: list[DependencyExample],
    held_out: list[DependencyExample],
    seed: int,
    output_dir: Path,
    num_steps: int,
) -> tuple[DemaskHead, dict]:
    head = new_head(backbone_facts(model), seed, base_model_name_or_path="demask_hf.TINY_DREAM", width=64)
    fit = train_head(
        head,
        states,
        held_out,
        output_dir,
        max_steps=num_steps,
        per_device_train_batch_size=64,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.01,
        save_steps=1000,
        save_total_limit=1,
        logging_steps=500,
        seed=seed,
    )
    print(f"{output_dir.name}: {fit}", flush=True)
    return head.cpu(), fit
