"""Run settings on task prompts with several seeds; every record is stored, and nothing is decoded twice."""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
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
        self.folder.mkdir(parents=True, exist_ok=True)
        found = self._found(setting)
        missing = [job for job in self._jobs() if job not in found]
        # No process may write before all have determined what is missing.
        state.wait_for_everyone()
        own = set(missing[state.process_index :: state.num_processes])
        file = self.folder / f"{setting.key}-{state.process_index}.jsonl"
        with tqdm(total=len(own), unit="prompt", disable=not (is_shown and own), desc=setting.label) as bar:
            for task in self.tasks:
                jobs = [(example, number) for example in task.examples for number in range(self.num_seeds)]
                jobs = [(example, number) for example, number in jobs if (task.name, example.prompt, number) in own]
                for batch in (jobs[start : start + self.batch_size] for start in range(0, len(jobs), self.batch_size)):
                    records = evaluate(
                        model,
                        tokenizer,
                        dataclasses.replace(task, examples=tuple(example for example, _ in batch)),
                        setting.strategy,
                        self.batch_size,
                        seed=[seed_of(example.prompt, number, self.seed) for example, number in batch],
                        **setting.options,
                    )
                    append_lines(
                        file,
                        [
                            {**dataclasses.asdict(record), "seed": number, "example": example_key(task, example)}
                            for record, (example, number) in zip(records, batch, strict=True)
                        ],
                    )
                    bar.update(len(batch))
        state.wait_for_everyone()

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
