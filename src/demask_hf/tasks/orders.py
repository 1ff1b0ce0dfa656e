"""Families about lists of letters: any permutation of groups, and operations with one right result."""

from random import Random

from .base import TaskFamily, parts_of


LETTERS = "ABCDEFGHJKLMNPRT"
OPERATIONS = ("copy", "reverse", "sort", "replace")
NUM_GROUPS, NUM_GROUP_LETTERS = 6, 18
NUM_LISTS, LIST_LENGTH = 4, 5


def _letters(random: Random, length: int) -> str:
    return "".join(random.sample(LETTERS, length))


def _sample_shuffle(random: Random) -> tuple[str, str]:
    while True:
        sizes = random.choices((2, 3, 4), k=NUM_GROUPS)
        if sum(sizes) == NUM_GROUP_LETTERS:
            break
    groups = [_letters(random, size) for size in sizes]
    answer = " ".join("".join(random.sample(group, len(group))) for group in groups)
    return f"shuffle: {' '.join(groups)} -> ", answer


def _check_shuffle(prompt: str, answer: str) -> bool:
    return [sorted(group) for group in parts_of(prompt, " ")] == [sorted(group) for group in answer.split(" ")]


def _apply(prompt: str) -> str:
    """Return the one right answer of a list prompt."""
    operation, lists = prompt.split(": ")[0], parts_of(prompt, " ")
    if operation == "replace":
        old, new = lists.pop().split("=")
        return " ".join(letters.replace(old, new) for letters in lists)
    if operation == "reverse":
        return " ".join(letters[::-1] for letters in lists)
    if operation == "sort":
        return " ".join("".join(sorted(letters)) for letters in lists)
    return " ".join(lists)


def _sample_lists(random: Random) -> tuple[str, str]:
    operation = random.choice(OPERATIONS)
    lists = [_letters(random, LIST_LENGTH) for _ in range(NUM_LISTS)]
    if operation == "replace":
        old = random.choice("".join(lists))
        lists.append(f"{old}={random.choice(LETTERS.replace(old, ''))}")
    prompt = f"{operation}: {' '.join(lists)} -> "
    return prompt, _apply(prompt)


def _check_lists(prompt: str, answer: str) -> bool:
    return answer == _apply(prompt)


SHUFFLE = TaskFamily("shuffle", "the letters of each group in any order", _sample_shuffle, _check_shuffle)
LISTS = TaskFamily("lists", "lists copied, reversed, sorted, or with one letter replaced", _sample_lists, _check_lists)
