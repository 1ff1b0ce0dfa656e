"""Run settings on task prompts with several seeds; every record is stored, and nothing is decoded twice."""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ..files import append_lines, kept_lines
from ..generation.mixin import DemaskGenerationMixin
from ..tasks import Task
from ..validation import check_count
from .records import Record, evaluate
from .specs import Setting


FACTS_FILE = "run.json"
_SEED_STRIDE = 1_000_003


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

    Raises:
        ValueError: if a prompt occurs twice, or `num_seeds` is below 1.
    """

    tasks: Sequence[Task]
    num_seeds: int
    folder: Path
    batch_size: int = 64

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
                    append_lines(
                        file,
                        [
                            {**dataclasses.asdict(record), "seed": seed}
                            for record, (_, seed) in zip(records, batch, strict=True)
                        ],
                    )
                    bar.update(len(batch))
        state.wait_for_everyone()

    def _jobs(self) -> Iterator[tuple[str, str, int]]:
        """Yield task, prompt and seed number of each record."""
        prompts = ((task.name, example.prompt) for task in self.tasks for example in task.examples)
        return ((*prompt, seed) for prompt in prompts for seed in range(self.num_seeds))

    def _found(self, setting: Setting) -> dict[tuple[str, str, int], Record]:
        found = {}
        for file in sorted(self.folder.glob(f"{setting.key}-*.jsonl")):
            for facts in kept_lines(file):
                seed = facts.pop("seed")
                facts |= {name: tuple(facts[name]) for name in ("tokens", "unmask_steps")}
                found[facts["family"], facts["prompt"], seed] = Record(**facts)
        return found


def seed_of(prompt: str, number: int) -> int:
    """Return the seed of a run of a prompt; it depends on the prompt and the number of the run only."""
    return _SEED_STRIDE * number + zlib.crc32(prompt.encode()) % _SEED_STRIDE
