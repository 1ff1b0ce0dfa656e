"""Tasks (prompts with a checker) and task families, which generate tasks from a seed."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ..validation import check_choice


SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TaskExample:
    """One prompt with one of its valid answers.

    Args:
        family (`str`):
            Name of the task.
        prompt (`str`):
            Text that the model reads, up to the start of the answer.
        answer (`str`):
            A valid answer; several answers of a prompt may be valid.
        metadata (`Mapping[str, Any]`, *optional*):
            Further inputs of the checker and facts about the record; JSON types only.
    """

    family: str
    prompt: str
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Task:
    """Prompts with the rule that checks their answers.

    Args:
        name (`str`):
            Name of the task.
        description (`str`):
            What a right answer is, in one sentence.
        examples (`tuple[TaskExample, ...]`):
            The prompts.
        judge (`Callable[[TaskExample, str], bool]`):
            Returns whether a text is a right answer to an example.
        max_new_tokens (`int`, *optional*):
            Length of the answers in tokens; by default that of the model's generation config.
        stop_strings (`tuple[str, ...]`, *optional*):
            Texts that end an answer, such as the start of the next question. They are searched for in the finished
            text, so they save no forward passes.
    """

    name: str
    description: str
    examples: tuple[TaskExample, ...]
    judge: Callable[[TaskExample, str], bool]
    max_new_tokens: int | None = None
    stop_strings: tuple[str, ...] = ()

    def check(self, example: TaskExample, text: str) -> bool:
        """Return whether the text before the first stop string is a right answer."""
        return self.judge(example, before_stop(text, self.stop_strings))


def _the_prompt(prompt: str, answer: str) -> str:
    return prompt


@dataclass(frozen=True)
class TaskFamily:
    """A family of prompts that a program can generate and check.

    Args:
        name (`str`):
            Name of the family.
        description (`str`):
            What a right answer is, in one sentence.
        sample (`Callable[[Random], tuple[str, str]]`):
            Draws a prompt and one valid answer, uniformly over the valid answers.
        check (`Callable[[str, str], bool]`):
            Returns whether an answer is right for a prompt.
        key (`Callable[[str, str], str]`, *optional*):
            What assigns a prompt and its answer to a split, such as the solution, so that no solution of one split
            occurs in another; by default the prompt.
    """

    name: str
    description: str
    sample: Callable[[Random], tuple[str, str]]
    check: Callable[[str, str], bool]
    key: Callable[[str, str], str] = _the_prompt

    def examples(self, split: str, seed: int = 0) -> Iterator[TaskExample]:
        """Yield examples of a split endlessly; a prompt belongs to one split only.

        Args:
            split (`str`):
                "train", "validation" or "test".
            seed (`int`, *optional*, defaults to 0):
                Seed of the stream.

        Raises:
            ValueError: if `split` is unknown.
        """
        check_choice("split", split, SPLITS)
        random = Random(f"{self.name}/{split}/{seed}")
        while True:
            prompt, answer = self.sample(random)
            if split_of(self.key(prompt, answer)) == split:
                yield TaskExample(self.name, prompt, answer)

    def distinct(self, split: str, num_examples: int, seed: int = 0) -> list[TaskExample]:
        """Return `num_examples` examples with different prompts, in a fixed order.

        Raises:
            ValueError: if the split has too few different prompts.
        """
        found: dict[str, TaskExample] = {}
        for num_draws, example in enumerate(self.examples(split, seed)):
            if len(found) == num_examples:
                break
            if num_draws > 100 * num_examples + 1000:
                raise ValueError(
                    f"`num_examples` must be at most about {len(found)} for the {split} split of {self.name}, "
                    f"got {num_examples}."
                )
            found.setdefault(example.prompt, example)
        return list(found.values())

    def task(self, split: str, num_examples: int, seed: int = 0) -> Task:
        """Return distinct examples as a task.

        Raises:
            ValueError: as `distinct`.
        """
        examples = tuple(self.distinct(split, num_examples, seed))
        return Task(self.name, self.description, examples, lambda example, answer: self.check(example.prompt, answer))


def before_stop(text: str, stop_strings: Iterable[str]) -> str:
    """Return the text before the first of the stop strings."""
    return min((text.split(stop, 1)[0] for stop in stop_strings), key=len, default=text)


def split_of(prompt: str) -> str:
    """Return the split of a prompt: a checksum assigns 80 % to train and 10 % each to validation and test."""
    bucket = zlib.crc32(prompt.encode()) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def parts_of(prompt: str, separator: str) -> list[str]:
    """Return the parts between the first word of a prompt and its arrow."""
    return prompt.split(": ", 1)[1].removesuffix(" -> ").split(separator)
