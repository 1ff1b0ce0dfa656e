"""Run settings on task prompts with several seeds; every record is stored, and nothing is decoded twice."""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ..files import append_lines, kept_lines
from ..generation.mixin import DemaskGenerationMixin
from ..schema import from_json
from ..tasks import Task, TaskExample
from ..validation import check_count
from .records import Record, evaluate
from .specs import Setting


FACTS_FILE = "run.json"
#: Where records lie in a folder that has such facts.
RECORDS = ("*.jsonl", "*/*.jsonl")
_SEED_STRIDE = 1_000_003


@dataclasses.dataclass(frozen=True)
class StoredRecord(Record):
    """A record as it is stored.

    Args:
        seed (`int`):
            Number of the run of the prompt, from 0.
        example (`str`):
            Checksum of the example that was decoded and checked; a record of another one does not count.
    """

    seed: int
    example: str

    def __post_init__(self):
        super().__post_init__()
        counts = ("num_forward_passes", "num_probe_passes", "num_row_forwards", "num_remasked")
        for name in ("seed", *counts, "seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"must have at least 0 as `{name}`, got {getattr(self, name)!r}.")
        if len(self.tokens) != len(self.unmask_steps) or min(self.tokens, default=0) < 0:
            raise ValueError("must have as many `unmask_steps` as `tokens`, and tokens of at least 0.")
        if min(self.unmask_steps, default=0) < -1:
            raise ValueError(f"must have `unmask_steps` of at least -1, got {min(self.unmask_steps)}.")

    def record(self) -> Record:
        """Return the record alone."""
        return Record(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Record)})

    def contradicts(self, other: "StoredRecord") -> bool:
        """Return whether another record of the same run differs in more than its time."""
        return dataclasses.replace(self, seconds=other.seconds) != other


@dataclasses.dataclass(frozen=True)
class Batch:
    """Runs of prompts of one task that are decoded together.

    Args:
        task ([`Task`]): The task with the prompts of these runs only.
        numbers (`tuple[int, ...]`): Number of the run of each prompt, from 0.
        seeds (`list[int]`): Seed of each.
    """

    task: Task
    numbers: tuple[int, ...]
    seeds: list[int]


@dataclasses.dataclass(frozen=True)
class Run:
    """Prompts, seeds and the folder of their records.

    Args:
        tasks (`Sequence[Task]`):
            The prompts, all different within a task.
        num_seeds (`int`):
            Number of times that each prompt is decoded, each time with its own seed; at least 1.
        folder (`Path`):
            Folder of the records, one JSON Lines file per setting and process.
        batch_size (`int`, *optional*, defaults to 64):
            Prompts decoded together; it does not change the answers.
        seed (`int`, *optional*, defaults to 0):
            Other seeds give other samples. A folder holds records of one seed.

    Raises:
        ValueError: if a prompt occurs twice, or `num_seeds` is below 1.
    """

    tasks: Sequence[Task]
    num_seeds: int
    folder: Path
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self):
        check_count("num_seeds", self.num_seeds)
        jobs = list(self._jobs())
        if len(set(jobs)) < len(jobs) or not jobs:
            raise ValueError(
                f"`tasks` must have prompts, each of them once, got {len(jobs)} with {len(set(jobs))} different ones."
            )

    def records(self, setting: Setting) -> list[list[Record]]:
        """Return the records of each prompt, in the order of the tasks, their prompts and the seeds.

        Raises:
            ValueError: if some are missing; [`decode`] creates them.
        """
        found = self._found(setting)
        missing = [job for job in self._jobs() if job not in found]
        if missing:
            raise ValueError(f"`folder` must hold all records of {setting.label}, got {len(missing)} missing ones.")
        rows = [found[job] for job in self._jobs()]
        return [rows[start : start + self.num_seeds] for start in range(0, len(rows), self.num_seeds)]

    def decode(
        self, model: DemaskGenerationMixin, tokenizer: PreTrainedTokenizerBase, setting: Setting, is_shown: bool = True
    ) -> None:
        """Decode the missing records of a setting.

        Under `accelerate launch` or `torchrun` the processes share the prompts; the records do not depend on their
        number, nor on the batch size, nor on interruptions.

        Args:
            model ([`DemaskGenerationMixin`]):
                The model.
            tokenizer (`PreTrainedTokenizerBase`):
                Its tokenizer.
            setting ([`Setting`]):
                How to decode.
            is_shown (`bool`, *optional*, defaults to `True`):
                Show progress with the remaining time.

        Raises:
            ValueError: if an argument of `generate` is wrong.
        """
        from accelerate import PartialState

        state = PartialState(cpu=model.device.type == "cpu")
        batches = self.missing(setting, state.process_index, state.num_processes)
        # No process may write before all have determined what is missing.
        state.wait_for_everyone()
        records = (
            evaluate(
                model, tokenizer, batch.task, setting.strategy, self.batch_size, seed=batch.seeds, **setting.options
            )
            for batch in batches
        )
        self.keep(setting, batches, records, state.process_index, is_shown)
        state.wait_for_everyone()

    def missing(self, setting: Setting, part: int = 0, num_parts: int = 1) -> list[Batch]:
        """Return what is not decoded yet.

        Args:
            setting ([`Setting`]):
                How it is decoded.
            part (`int`, *optional*, defaults to 0):
                Number of the part, where several processes share the work.
            num_parts (`int`, *optional*, defaults to 1):
                Number of parts.
        """
        found = self._found(setting)
        own = set([job for job in self._jobs() if job not in found][part::num_parts])
        batches = []
        for task in self.tasks:
            runs = [(example, number) for example in task.examples for number in range(self.num_seeds)]
            runs = [(example, number) for example, number in runs if (task.name, example.prompt, number) in own]
            for start in range(0, len(runs), self.batch_size):
                examples, numbers = zip(*runs[start : start + self.batch_size], strict=True)
                seeds = [
                    seed_of(example.prompt, number, self.seed)
                    for example, number in zip(examples, numbers, strict=True)
                ]
                batches.append(Batch(dataclasses.replace(task, examples=examples), numbers, seeds))
        return batches

    def keep(
        self,
        setting: Setting,
        batches: Sequence[Batch],
        records: Iterable[Sequence[Record]],
        part: int = 0,
        is_shown: bool = True,
    ) -> None:
        """Store the records of batches as they come.

        Args:
            setting ([`Setting`]):
                How they are decoded.
            batches (`Sequence[Batch]`):
                What [`missing`] returned.
            records (`Iterable[Sequence[Record]]`):
                The records of each batch, in the same order.
            part (`int`, *optional*, defaults to 0):
                As in [`missing`].
            is_shown (`bool`, *optional*, defaults to `True`):
                Show progress with the remaining time.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{setting.key}-{part}.jsonl"
        total = sum(len(batch.numbers) for batch in batches)
        with tqdm(total=total, unit="prompt", disable=not (is_shown and total), desc=setting.label) as bar:
            for batch, found in zip(batches, records, strict=True):
                lines = zip(found, batch.task.examples, batch.numbers, strict=True)
                append_lines(
                    file,
                    [
                        {**dataclasses.asdict(record), "seed": number, "example": example_key(batch.task, example)}
                        for record, example, number in lines
                    ],
                )
                bar.update(len(batch.numbers))

    def _jobs(self) -> Iterator[tuple[str, str, int]]:
        """Yield task, prompt and seed number of each record."""
        prompts = ((task.name, example.prompt) for task in self.tasks for example in task.examples)
        return ((*prompt, seed) for prompt in prompts for seed in range(self.num_seeds))

    def _found(self, setting: Setting) -> dict[tuple[str, str, int], Record]:
        """Return the stored records of the examples that are asked for.

        Raises:
            ValueError: if a record is broken, or two contradict each other.
        """
        keys = {(task.name, each.prompt): example_key(task, each) for task in self.tasks for each in task.examples}
        found: dict[tuple[str, str, int], StoredRecord] = {}

        def take(value: Any) -> None:
            if isinstance(value, dict):
                # Records of the time before strategies remasked or made drafts do not say that they did not.
                value = {"num_remasked": 0, "num_row_forwards": None, **value}
            record = from_json(StoredRecord, value)
            job = (record.family, record.prompt, record.seed)
            if keys.get(job[:2]) == record.example and record.contradicts(found.setdefault(job, record)):
                raise ValueError(f"contradicts an earlier record of run {record.seed} of {record.prompt!r}.")

        for file in sorted(self.folder.glob(f"{setting.key}-*.jsonl")):
            kept_lines(file, take)
        return {job: record.record() for job, record in found.items()}


def example_key(task: Task, example: TaskExample) -> str:
    """Return a checksum of everything about a task that an answer and its verdict depend on, apart from code."""
    facts = [dataclasses.asdict(example), task.max_new_tokens, task.stop_strings]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def seed_of(prompt: str, number: int, seed: int = 0) -> int:
    """Return the seed of a run of a prompt.

    Args:
        prompt (`str`):
            The prompt; the order of the prompts does not matter.
        number (`int`):
            Number of the run, from 0.
        seed (`int`, *optional*, defaults to 0):
            The seed of the evaluation; seeds that differ by less than a million give different ones.
    """
    return _SEED_STRIDE * number + (zlib.crc32(prompt.encode()) + seed) % _SEED_STRIDE
