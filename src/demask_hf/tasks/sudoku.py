"""Family of 4x4 Sudoku in the format of Dream's evaluation data: four lines of four digits, 0 for an empty cell."""

from functools import cache
from itertools import permutations
from random import Random

from .base import TaskFamily


SIZE = 4


def _units() -> list[list[int]]:
    """Return the cell numbers of every row, column and 2x2 box."""
    rows = [[SIZE * row + column for column in range(SIZE)] for row in range(SIZE)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    boxes = [[SIZE * (row + i) + column + j for i in (0, 1) for j in (0, 1)] for row in (0, 2) for column in (0, 2)]
    return rows + columns + boxes


UNITS = _units()


def is_solved(cells: str) -> bool:
    """Return whether 16 digits, row by row, contain every digit from 1 to 4 once in each row, column and box."""
    return len(cells) == SIZE * SIZE and all(sorted(cells[cell] for cell in unit) == list("1234") for unit in UNITS)


@cache
def _solved_grids() -> tuple[str, ...]:
    """Return all 288 solved grids."""
    rows = ["".join(row) for row in permutations("1234")]
    grids = [""]
    for _ in range(SIZE):
        grids = [grid + row for grid in grids for row in rows]
        # Later rows cannot repair two equal digits in a column.
        grids = [g for g in grids if all(len(set(g[c::SIZE])) == len(g) // SIZE for c in range(SIZE))]
    return tuple(filter(is_solved, grids))


def _lines(cells: str) -> str:
    return "\n".join(cells[start : start + SIZE] for start in range(0, SIZE * SIZE, SIZE))


def _sample_sudoku(random: Random) -> tuple[str, str]:
    grid = random.choice(_solved_grids())
    given = set(random.sample(range(SIZE * SIZE), random.randint(4, 12)))
    puzzle = "".join(digit if cell in given else "0" for cell, digit in enumerate(grid))
    return f"sudoku: {_lines(puzzle)} -> ", _lines(grid)


def solves(puzzle: str, cells: str) -> bool:
    """Return whether 16 digits solve a puzzle of 16 digits, in which 0 is an empty cell."""
    return is_solved(cells) and all(given in ("0", digit) for given, digit in zip(puzzle, cells, strict=True))


def _check_sudoku(prompt: str, answer: str) -> bool:
    puzzle = prompt.removeprefix("sudoku: ").removesuffix(" -> ").replace("\n", "")
    cells = answer.replace("\n", "")
    return answer == _lines(cells) and solves(puzzle, cells)


SUDOKU = TaskFamily("sudoku", "a 4x4 Sudoku completed, any solution", _sample_sudoku, _check_sudoku)
