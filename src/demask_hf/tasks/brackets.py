"""Family of balanced brackets: groups with a given first bracket and length."""

from random import Random

from .base import TaskFamily, parts_of


CLOSING = {"(": ")", "[": "]", "{": "}"}
# Number of groups and of bracket pairs in total; together they give answers of 23 tokens.
LAYOUTS = ((4, 10), (6, 9))
# Number of balanced shapes by number of pairs.
CATALAN = (1, 1, 2, 5, 14)


def _balanced(random: Random, num_pairs: int, first: str | None = None) -> str:
    """Draw a balanced string, uniform over shapes and kinds of bracket."""
    if num_pairs == 0:
        return ""
    # A balanced string is "(" inside ")" rest; The number of pairs inside is weighted by Catalan numbers.
    weights = [CATALAN[inside] * CATALAN[num_pairs - 1 - inside] for inside in range(num_pairs)]
    inside = random.choices(range(num_pairs), weights)[0]
    opening = first or random.choice(list(CLOSING))
    return f"{opening}{_balanced(random, inside)}{CLOSING[opening]}{_balanced(random, num_pairs - 1 - inside)}"


def _sample_brackets(random: Random) -> tuple[str, str]:
    num_groups, num_pairs = random.choice(LAYOUTS)
    while True:
        sizes = random.choices((1, 2, 3, 4), (4, 4, 3, 1), k=num_groups)
        if sum(sizes) == num_pairs:
            break
    groups = [_balanced(random, size, random.choice(list(CLOSING))) for size in sizes]
    blanks = " ".join(group[0] + "?" * (len(group) - 1) for group in groups)
    return f"brackets: {blanks} -> ", " ".join(groups)


def _is_balanced(group: str) -> bool:
    expected: list[str] = []
    for bracket in group:
        if bracket in CLOSING:
            expected.append(CLOSING[bracket])
        elif not expected or expected.pop() != bracket:
            return False
    return not expected


def _check_brackets(prompt: str, answer: str) -> bool:
    blanks, groups = parts_of(prompt, " "), answer.split(" ")
    return len(blanks) == len(groups) and all(
        group[:1] == blank[0] and len(group) == len(blank) and _is_balanced(group)
        for blank, group in zip(blanks, groups, strict=True)
    )


BRACKETS = TaskFamily(
    "brackets", "balanced groups with the given first bracket and length", _sample_brackets, _check_brackets
)
