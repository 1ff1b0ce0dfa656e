"""Task families whose layout changes from prompt to prompt: which positions depend on each other is in the prompt."""

from functools import cache
from itertools import permutations
from random import Random

from demask_hf.tasks import TaskFamily


NUM_SLOTS, NUM_LABELS = 16, 5
NUM_PAIRS = 6
SIZE = 5
LABELS = "ABCDEF"


def _question(prompt: str) -> str:
    return prompt.split(": ", 1)[1].removesuffix(" -> ")


def _sample_match(random: Random) -> tuple[str, str]:
    labels = [*LABELS[:NUM_LABELS], *random.choices(LABELS[:NUM_LABELS], k=NUM_SLOTS - NUM_LABELS)]
    random.shuffle(labels)
    digits = {label: str(random.randrange(10)) for label in LABELS[:NUM_LABELS]}
    return f"match: {''.join(labels)} -> ", "".join(digits[label] for label in labels)


def _check_match(prompt: str, answer: str) -> bool:
    labels = _question(prompt)
    if len(answer) != len(labels) or not set(answer) <= set("0123456789"):
        return False
    return len(set(zip(labels, answer, strict=True))) == len(set(labels))


def _sample_links(random: Random) -> tuple[str, str]:
    labels = [label for label in LABELS[:NUM_PAIRS] for _ in range(2)]
    random.shuffle(labels)
    totals = {label: random.randint(0, 18) for label in LABELS[:NUM_PAIRS]}
    firsts = {label: random.randint(max(0, total - 9), min(9, total)) for label, total in totals.items()}
    digits = [
        firsts[label] if label not in labels[:place] else totals[label] - firsts[label]
        for place, label in enumerate(labels)
    ]
    given = ", ".join(f"{label}={total:02d}" for label, total in totals.items())
    return f"links: {given}, {''.join(labels)} -> ", "".join(map(str, digits))


def _check_links(prompt: str, answer: str) -> bool:
    *given, labels = _question(prompt).split(", ")
    totals = {part[0]: int(part[2:]) for part in given}
    if len(answer) != len(labels) or not set(answer) <= set("0123456789"):
        return False
    sums = dict.fromkeys(totals, 0)
    for label, digit in zip(labels, answer, strict=True):
        sums[label] += int(digit)
    return sums == totals


@cache
def _reduced_squares() -> tuple[tuple[str, ...], ...]:
    """Return the 56 Latin squares of order 5 whose first row and column are in order."""
    digits = "".join(str(digit) for digit in range(1, SIZE + 1))
    squares: list[tuple[str, ...]] = [(digits,)]
    for number in range(1, SIZE):
        rows = ["".join(row) for row in permutations(digits) if row[0] == digits[number]]
        squares = [
            (*square, row)
            for square in squares
            for row in rows
            if all(above[column] != row[column] for above in square for column in range(SIZE))
        ]
    return tuple(squares)


def _sample_latin(random: Random) -> tuple[str, str]:
    # Every Latin square is one reduced square with its columns and its rows but the first permuted.
    first, *others = random.choice(_reduced_squares())
    random.shuffle(others)
    columns = random.sample(range(SIZE), SIZE)
    rows = ["".join(row[column] for column in columns) for row in (first, *others)]
    given = set(random.sample(range(SIZE * SIZE), random.randint(8, 20)))
    shown = [
        "".join(digit if SIZE * number + column in given else "0" for column, digit in enumerate(row))
        for number, row in enumerate(rows)
    ]
    return f"latin: {_lines(shown)} -> ", _lines(rows)


def _lines(rows: list[str]) -> str:
    return "\n".join(rows)


def _check_latin(prompt: str, answer: str) -> bool:
    given, rows = _question(prompt).split("\n"), answer.split("\n")
    if len(rows) != SIZE or any(len(row) != SIZE for row in rows):
        return False
    whole = sorted("12345")
    return (
        all(sorted(row) == whole for row in rows)
        and all(sorted(column) == whole for column in zip(*rows, strict=True))
        and all(
            asked in ("0", digit)
            for line, row in zip(given, rows, strict=True)
            for asked, digit in zip(line, row, strict=True)
        )
    )


MATCH = TaskFamily("match", "one digit for all slots with the same letter", _sample_match, _check_match)
LINKS = TaskFamily(
    "links", "digits in which the two slots with the same letter add up to its total", _sample_links, _check_links
)
# The solution decides the split: no square of the test prompts was ever a training answer.
LATIN = TaskFamily(
    "latin", "a 5x5 Latin square completed, any solution", _sample_latin, _check_latin, lambda prompt, answer: answer
)
LAYOUT_FAMILIES = {family.name: family for family in (MATCH, LINKS, LATIN)}
