"""Families about numbers: pairs with given totals, bills, and sums modulo two or three."""

import re
from random import Random

from .base import TaskFamily, parts_of


NUM_PAIRS = 6
NUM_LINES = 3
NUM_TRIPLES = 6
MODULI = (2, 3)
ITEMS = ("tea", "milk", "egg", "rice", "salt", "corn", "fish", "soup", "cake", "plum", "bean", "oil")


def _sample_pairs(random: Random) -> tuple[str, str]:
    totals = [random.randint(0, 18) for _ in range(NUM_PAIRS)]
    firsts = [random.randint(max(0, total - 9), min(9, total)) for total in totals]
    answer = ", ".join(f"{first}+{total - first}" for first, total in zip(firsts, totals, strict=True))
    return f"pairs: {', '.join(f'={total:02d}' for total in totals)} -> ", answer


def _check_pairs(prompt: str, answer: str) -> bool:
    totals, pairs = parts_of(prompt, ", "), answer.split(", ")
    return len(totals) == len(pairs) and all(
        re.fullmatch(r"\d\+\d", pair) is not None and int(pair[0]) + int(pair[2]) == int(total[1:])
        for total, pair in zip(totals, pairs, strict=True)
    )


def _sample_bill(random: Random) -> tuple[str, str]:
    blanks, lines = [], []
    for item in random.choices(ITEMS, k=NUM_LINES):
        quantity, price = random.randint(2, 9), random.randint(2, 9)
        given = quantity if random.random() < 0.5 else "?"
        blanks.append(f"{item}: {given}*?=??")
        lines.append(f"{item}: {quantity}*{price}={quantity * price:02d}")
    return f"bill: {'; '.join(blanks)} -> ", "; ".join(lines)


def _is_line(blank: str, line: str) -> bool:
    match = re.fullmatch(r"[a-z]+: ([2-9])\*([2-9])=(\d\d)", line)
    pattern = re.escape(blank).replace(r"\?", ".")
    return (
        match is not None
        and re.fullmatch(pattern, line) is not None
        and int(match[1]) * int(match[2]) == int(match[3])
    )


def _check_bill(prompt: str, answer: str) -> bool:
    blanks, lines = parts_of(prompt, "; "), answer.split("; ")
    return len(blanks) == len(lines) and all(map(_is_line, blanks, lines))


def _sample_parity(random: Random) -> tuple[str, str]:
    blanks, triples = [], []
    for modulus in random.choices(MODULI, k=NUM_TRIPLES):
        triple = [random.randrange(modulus) for _ in range(3)]
        blanks.append(f"{modulus}={sum(triple) % modulus}")
        triples.append("".join(map(str, triple)))
    return f"parity: {' '.join(blanks)} -> ", " ".join(triples)


def _is_triple(blank: str, triple: str) -> bool:
    modulus, remainder = map(int, blank.split("="))
    return (
        re.fullmatch(rf"[0-{modulus - 1}]{{3}}", triple) is not None and sum(map(int, triple)) % modulus == remainder
    )


def _check_parity(prompt: str, answer: str) -> bool:
    blanks, triples = parts_of(prompt, " "), answer.split(" ")
    return len(blanks) == len(triples) and all(map(_is_triple, blanks, triples))


PAIRS = TaskFamily("pairs", "two digits that add up to each given total", _sample_pairs, _check_pairs)
BILL = TaskFamily(
    "bill",
    "lines of quantity * price = total, the quantity given or free, the price free",
    _sample_bill,
    _check_bill,
)
PARITY = TaskFamily(
    "parity",
    "for each m=r three digits below m whose sum modulo m is r",
    _sample_parity,
    _check_parity,
)
