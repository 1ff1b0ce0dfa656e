"""Families about lists of letters: any permutation of groups, and operations with one right result."""

from random import Random

from .base import TaskFamily


LETTERS = "ABCDEFGHJKLMNPRT"
OPERATIONS = ("copy", "reverse", "sort", "replace")


def _letters(random: Random, length: int) -> str:
    return "".join(random.sample(LETTERS, length))


def _sample_shuffle(random: Random) -> tuple[str, str]:
    groups = [_letters(random, random.choice((2, 3, 3, 4))) for _ in range(random.randint(3, 5))]
    answer = " ".join("".join(random.sample(group, len(group))) for group in groups)
    return f"shuffle: {' '.join(groups)} -> ", answer


def _check_shuffle(prompt: str, answer: str) -> bool:
    groups, shuffled = prompt.removeprefix("shuffle: ").removesuffix(" -> ").split(" "), answer.split(" ")
    return [sorted(group) for group in groups] == [sorted(group) for group in shuffled]


def _apply(prompt: str) -> str:
    """Return the one right answer of a list prompt."""
    operation, rest = prompt.removesuffix(" -> ").split(": ")
    if operation == "replace":
        (old, new), *lists = rest.split(" ")
        return " ".join(letters.replace(old, new) for letters in lists)
    lists = rest.split(" ")
    if operation == "reverse":
        return " ".join(letters[::-1] for letters in lists)
    if operation == "sort":
        return " ".join("".join(sorted(letters)) for letters in lists)
    return " ".join(lists)


def _sample_lists(random: Random) -> tuple[str, str]:
    operation = random.choice(OPERATIONS)
    lists = [_letters(random, random.randint(3, 6)) for _ in range(random.randint(1, 3))]
    if operation == "replace":
        old = random.choice("".join(lists))
        new = random.choice(LETTERS.replace(old, ""))
        lists.insert(0, old + new)
    prompt = f"{operation}: {' '.join(lists)} -> "
    return prompt, _apply(prompt)


SHUFFLE = TaskFamily("shuffle", "each group of letters in any order", _sample_shuffle, _check_shuffle)
LISTS = TaskFamily(
    "lists",
    "lists copied, reversed, sorted, or with one letter replaced",
    _sample_lists,
    lambda prompt, answer: answer == _apply(prompt),
)
