"""Families about numbers: pairs with given totals, bills, and sums modulo three."""

import re
from random import Random

from .base import TaskFamily


ITEMS = ("tea", "milk", "egg", "rice", "salt", "corn", "fish", "soup", "cake", "plum", "bean", "oil")
MODULUS = 3


def _arguments(prompt: str) -> list[str]:
    """Return the comma-separated arguments between the family's name and the arrow."""
    return prompt.split(": ")[1].removesuffix(" -> ").split(", ")


def _sample_pairs(random: Random) -> tuple[str, str]:
    totals = [random.randint(0, 18) for _ in range(random.randint(3, 8))]
    firsts = [random.randint(max(0, total - 9), min(9, total)) for total in totals]
    answer = ", ".join(f"{first}+{total - first}" for first, total in zip(firsts, totals, strict=True))
    return f"pairs: {', '.join(f'{total:02d}' for total in totals)} -> ", answer


def _check_pairs(prompt: str, answer: str) -> bool:
    totals, pairs = _arguments(prompt), answer.split(", ")
    return len(totals) == len(pairs) and all(
        re.fullmatch(r"\d\+\d", pair) and int(pair[0]) + int(pair[2]) == int(total)
        for total, pair in zip(totals, pairs, strict=True)
    )


def _sample_bill(random: Random) -> tuple[str, str]:
    lines = []
    for item in random.choices(ITEMS, k=random.choice((3, 4, 4))):
        quantity, price = random.randint(2, 9), random.randint(2, 9)
        lines.append(f"{item}: {quantity}*{price}={quantity * price:02d}")
    items = ", ".join(line.split(":")[0] for line in lines)
    return f"bill: {items} -> ", "; ".join(lines)


def _check_bill(prompt: str, answer: str) -> bool:
    items, lines = _arguments(prompt), answer.split("; ")
    if len(items) != len(lines):
        return False
    for item, line in zip(items, lines, strict=True):
        match = re.fullmatch(r"([a-z]+): ([2-9])\*([2-9])=(\d\d)", line)
        if not match or match[1] != item or int(match[2]) * int(match[3]) != int(match[4]):
            return False
    return True


def _sample_parity(random: Random) -> tuple[str, str]:
    groups = [[random.randrange(MODULUS) for _ in range(3)] for _ in range(random.randint(4, 8))]
    answer = " ".join("".join(map(str, group)) for group in groups)
    return f"parity: {''.join(str(sum(group) % MODULUS) for group in groups)} -> ", answer


def _check_parity(prompt: str, answer: str) -> bool:
    totals, groups = _arguments(prompt)[0], answer.split(" ")
    return len(totals) == len(groups) and all(
        re.fullmatch(rf"[0-{MODULUS - 1}]{{3}}", group) and sum(map(int, group)) % MODULUS == int(total)
        for total, group in zip(totals, groups, strict=True)
    )


PAIRS = TaskFamily("pairs", "two digits that add up to each given total", _sample_pairs, _check_pairs)
BILL = TaskFamily(
    "bill", "one line an item: any quantity times any price and the right total", _sample_bill, _check_bill
)
PARITY = TaskFamily(
    "parity", f"three digits whose sum modulo {MODULUS} is given, for each given value", _sample_parity, _check_parity
)
