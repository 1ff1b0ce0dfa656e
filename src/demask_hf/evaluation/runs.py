"""Run settings on task prompts with several seeds; what was decoded is kept, prompt by prompt, and never run twice."""

import dataclasses
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ..generation.mixin import DemaskGenerationMixin
from ..tasks import Task
from ..training.store import write_json
from .decoding import Record, evaluate
from .specs import Setting


_FACTS_FILE = "run.json"
_SEED_STRIDE = 1_000_003


@dataclasses.dataclass(frozen=True)
class Run:
    """Prompts, seeds and the folder of their records.

    Args:
        tasks (`Sequence[Task]`):
            The prompts, all different within a task.
        num_seeds (`int`):
            Times that each prompt is decoded, each with a seed of its own; at least 1.
        folder (`Path`):
            Where the records go, one JSON Lines file for each setting and process.
        batch_size (`int`, *optional*, defaults to 64):
            Prompts decoded together; it does not change the answers.

    Raises:
        ValueError: if a prompt stands twice, or `num_seeds` is below 1.
    """

    tasks: Sequence[Task]
    num_seeds: int
    folder: Path
    batch_size: int = 64

    def __post_init__(self):
        if self.num_seeds < 1:
            raise ValueError(f"`num_seeds` must be at least 1, got {self.num_seeds}.")
        jobs = list(self._jobs())
        if len(set(jobs)) < len(jobs) or not jobs:
            raise ValueError(
                f"`tasks` must have prompts, each of them once, got {len(jobs)} with {len(set(jobs))} different ones."
            )

    def records(self, setting: Setting) -> list[list[Record]]:
        """Return the records of each prompt, in the order of the tasks, their prompts and the seeds.

        Raises:
            ValueError: if some are missing; [`decode`] makes them.
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
        """Decode what is missing of a setting.

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
        # Nobody may write before everybody has seen what is missing.
        state.wait_for_everyone()
        own = set(missing[state.process_index :: state.num_processes])
        file = self.folder / f"{setting.key}-{state.process_index}.jsonl"
        with tqdm(total=len(own), unit="prompt", disable=not (is_shown and own), desc=setting.label) as bar:
            for task in self.tasks:
                jobs = [(example, seed) for example in task.examples for seed in range(self.num_seeds)]
                jobs = [(example, seed) for example, seed in jobs if (task.name, example.prompt, seed) in own]
                for batch in (jobs[start : start + self.batch_size] for start in range(0, len(jobs), self.batch_size)):
                    records = evaluate(
                        model,
                        tokenizer,
                        dataclasses.replace(task, examples=tuple(example for example, _ in batch)),
                        setting.strategy,
                        self.batch_size,
                        seed=[seed_of(example.prompt, seed) for example, seed in batch],
                        **setting.options,
                    )
                    _append(file, records, [seed for _, seed in batch])
                    bar.update(len(batch))
        state.wait_for_everyone()

    def _jobs(self) -> Iterator[tuple[str, str, int]]:
        """Yield task, prompt and number of the seed of everything to decode."""
        prompts = ((task.name, example.prompt) for task in self.tasks for example in task.examples)
        return ((*prompt, seed) for prompt in prompts for seed in range(self.num_seeds))

    def _found(self, setting: Setting) -> dict[tuple[str, str, int], Record]:
        found = {}
        for file in sorted(self.folder.glob(f"{setting.key}-*.jsonl")):
            # A line without its end was being written when the process was killed.
            lines = file.read_bytes().split(b"\n")[:-1]
            for facts in map(json.loads, lines):
                seed = facts.pop("seed")
                facts |= {name: tuple(facts[name]) for name in ("tokens", "unmask_steps")}
                found[facts["family"], facts["prompt"], seed] = Record(**facts)
        return found


def seed_of(prompt: str, number: int) -> int:
    """Return the seed of a prompt's run, which depends on the prompt and the run's number only."""
    return _SEED_STRIDE * number + zlib.crc32(prompt.encode()) % _SEED_STRIDE


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write what the records of a folder were made with, or check that they were made with the same.

    Args:
        folder (`Path`):
            Folder of the records.
        facts (`dict`):
            Model, head, their checksums; of JSON types.

    Raises:
        ValueError: if the folder holds records that were made with something else.
    """
    file = folder / _FACTS_FILE
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, facts)
    written = json.loads(file.read_text(encoding="utf-8"))
    for name, value in facts.items():
        if written.get(name) != value:
            raise ValueError(
                f"`out` must be a new folder or one of the same run, got {str(folder)!r} with {name} "
                f"{written.get(name)!r} instead of {value!r}."
            )


def _append(file: Path, records: Sequence[Record], seeds: Sequence[int]) -> None:
    """Add records to a file in one write, after the last whole line."""
    pairs = zip(records, seeds, strict=True)
    lines = [json.dumps({**dataclasses.asdict(record), "seed": seed}) + "\n" for record, seed in pairs]
    if file.exists():
        content = file.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(file, content.rfind(b"\n") + 1)
    with open(file, "ab") as stream:
        stream.write("".join(lines).encode())
