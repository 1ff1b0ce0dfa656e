"""What a task family is: prompts drawn by seed, one valid answer each, and an exact checker."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random


SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TaskExample:
    """One prompt with one of its valid answers.

    Args:
        family (`str`):
            Name of the task family.
        prompt (`str`):
            What the model is asked, up to and including the arrow.
        answer (`str`):
            A valid answer; several answers of a prompt may be valid.
    """

    family: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class TaskFamily:
    """A family of prompts that a program can generate and judge.

    Args:
        name (`str`):
            Name of the family.
        description (`str`):
            What a right answer is, in one sentence.
        sample (`Callable[[Random], tuple[str, str]]`):
            Draws a prompt and one valid answer, uniform over the valid answers.
        check (`Callable[[str, str], bool]`):
            Says whether an answer is right for a prompt.
    """

    name: str
    description: str
    sample: Callable[[Random], tuple[str, str]]
    check: Callable[[str, str], bool]

    def examples(self, split: str, seed: int = 0) -> Iterator[TaskExample]:
        """Yield examples of a split without end; a prompt belongs to one split only.

        Args:
            split (`str`):
                "train", "validation" or "test".
            seed (`int`, *optional*, defaults to 0):
                Seed of the stream.

        Raises:
            ValueError: if `split` is unknown.
        """
        if split not in SPLITS:
            raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, got {split!r}.")
        random = Random(f"{self.name}/{split}/{seed}")
        while True:
            prompt, answer = self.sample(random)
            if split_of(prompt) == split:
                yield TaskExample(self.name, prompt, answer)

    def distinct(self, split: str, num_examples: int, seed: int = 0) -> list[TaskExample]:
        """Return `num_examples` examples with different prompts, in a fixed order.

        Raises:
            ValueError: if the split has too few prompts to find that many in a reasonable number of draws.
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


def split_of(prompt: str) -> str:
    """Return the split of a prompt: a checksum sends 80 % to train and 10 % each to validation and test."""
    bucket = zlib.crc32(prompt.encode()) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def parts_of(prompt: str, separator: str) -> list[str]:
    """Return the parts between the first word of a prompt and its arrow."""
    return prompt.split(": ", 1)[1].removesuffix(" -> ").split(separator)
