"""Family of balanced brackets: groups with a given first bracket and number of pairs."""

from random import Random

from .base import TaskFamily


PAIRS = {"(": ")", "[": "]", "{": "}"}


def _balanced(random: Random, num_pairs: int, first: str | None = None) -> str:
    """Draw a balanced string, uniform over shapes and kinds of bracket."""
    if num_pairs == 0:
        return ""
    # A balanced string is "(" inside ")" rest; Catalan numbers weigh how many pairs go inside.
    catalan = (1, 1, 2, 5, 14)
    weights = [catalan[inside] * catalan[num_pairs - 1 - inside] for inside in range(num_pairs)]
    inside = random.choices(range(num_pairs), weights)[0]
    opening = first or random.choice(list(PAIRS))
    return f"{opening}{_balanced(random, inside)}{PAIRS[opening]}{_balanced(random, num_pairs - 1 - inside)}"


def _sample_brackets(random: Random) -> tuple[str, str]:
    while True:
        sizes = [random.randint(1, 3) for _ in range(random.randint(3, 5))]
        if sum(sizes) <= 12:
            break
    groups = [_balanced(random, size, random.choice(list(PAIRS))) for size in sizes]
    specification = " ".join(f"{group[0]}{size}" for group, size in zip(groups, sizes, strict=True))
    return f"brackets: {specification} -> ", " ".join(groups)


def _is_balanced(group: str) -> bool:
    expected: list[str] = []
    for bracket in group:
        if bracket in PAIRS:
            expected.append(PAIRS[bracket])
        elif not expected or expected.pop() != bracket:
            return False
    return not expected


def _check_brackets(prompt: str, answer: str) -> bool:
    specification, groups = prompt.removeprefix("brackets: ").removesuffix(" -> ").split(" "), answer.split(" ")
    return len(specification) == len(groups) and all(
        group[:1] == first and len(group) == 2 * int(size) and _is_balanced(group)
        for (first, size), group in zip(specification, groups, strict=True)
    )


BRACKETS = TaskFamily(
    "brackets", "balanced groups with the given first bracket and number of pairs", _sample_brackets, _check_brackets
)
