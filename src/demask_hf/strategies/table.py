"""The walk of `demask` with a fixed table of dependencies, which reads no state: what a layout alone explains."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..files import read_json, write_json
from ..functional.dependency import DEPENDENCY_ORDERS, RULES
from ..functional.partition import SELECTIONS
from ..validation import check_choice, check_flag, check_interval
from .base import Compiled, UnmaskingStrategy, as_it_is, register_strategy
from .demask import ORDERS
from .needs import Need
from .sequential import needs_of_order, scores_of_walk
from .settings import DecodingSettings
from .step import DenoisingStep


_ENTRY = "dependencies"
# Sums of such fractions are exact in float32, so they do not depend on the other rows of a batch.
_FRACTIONS = 4096


@register_strategy("table")
@dataclass
class TableStrategy(UnmaskingStrategy):
    r"""Walk the positions by confidence and unmask each whose dependency, read in a fixed table, allows it.

    The walk is that of [`DemaskStrategy`], but the dependency of each ordered pair of answer positions is the same in
    every prompt and state. It is a baseline: what a head adds to it is what it reads in the state. Make a table with
    [`~training.table.mean_dependencies`]. Positions that it does not cover, those in the prompt, depend fully on all
    others, and all others on them; without a table these are all positions, so they are unmasked one by one. A table
    by distance, from [`~training.table.distance_dependencies`], covers every position, also masks in the prompt.

    Args:
        table (`str`, *optional*):
            File with the table, see [`write_table`]; by positions, it must cover the whole answer.
        dependency_bound (`float`, *optional*, defaults to 0.06):
            Upper limit of the rule, in total variation, at least 0.
        rule (`str`, *optional*, defaults to `"token"`):
            "total" bounds the sum over all pairs, "token" the sum over the sources of one position, "norm" the root
            of the sum of their squares, "max" each pair.
        symmetric (`bool`, *optional*, defaults to `False`):
            Use the larger of the two directions of a pair.
        order (`str`, *optional*, defaults to `"confidence"`):
            Order of the walk: "confidence", "entropy", "margin", "token_probability" (of the drawn token),
            "influence", see [`~dependency.net_influence`], or "degree", see [`~dependency.degree`].
        selection (`str`, *optional*, defaults to `"walk"`):
            "walk", or "partition", see [`~partition.best_set`].

    Example:

    Each pair of digits has a given sum. This table says that positions two places apart depend on each other:

    ```python
    >>> import tempfile
    >>> import torch
    >>> import demask_hf
    >>> from demask_hf.strategies.table import write_table

    >>> places = torch.arange(64)
    >>> is_other = (places[:, None] - places[None, :]).abs() == 2
    >>> file = tempfile.NamedTemporaryFile(suffix=".json")
    >>> write_table(file.name, is_other.float())
    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="table", table=file.name, return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer), sep="\n")
    1+__9+__1+___+9__+2__+__
    1+6, 9+3, 1+_, 9+9, 1+2, _+6
    1+6, 9+3, 1+4, 9+9, 1+2, 5+6

    ```
    """

    table: str | None = None
    dependency_bound: float = 0.06
    rule: str = "token"
    symmetric: bool = False
    order: str = "confidence"
    selection: str = "walk"
    _dependencies: torch.Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _prompt_length: int = field(default=0, init=False, repr=False, compare=False)

    @property
    def sequential_order(self) -> str:
        return self.order

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset() if self.order in DEPENDENCY_ORDERS else needs_of_order(self.order)

    def __post_init__(self):
        if self.table is not None and not isinstance(self.table, str):
            raise ValueError(f"`table` must be the name of a file as text, got {self.table!r}.")
        check_interval("dependency_bound", self.dependency_bound, 0, infinite=True)
        check_choice("rule", self.rule, RULES)
        check_flag("symmetric", self.symmetric)
        check_choice("order", self.order, ORDERS)
        check_choice("selection", self.selection, tuple(SELECTIONS))

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        self._prompt_length = 0 if settings is None else settings.prompt_length
        if self.table is None:
            return
        self._dependencies = read_table(self.table)
        is_by_position = self._dependencies.ndim == 2
        if is_by_position and settings is not None and settings.num_new_tokens > len(self._dependencies):
            raise ValueError(
                f"`table` must cover the {settings.num_new_tokens} positions of the answer, got one of "
                f"{len(self._dependencies)} positions."
            )

    def select(self, step: DenoisingStep) -> torch.Tensor:
        index = step.index
        is_position = index.padded(torch.ones_like(index.ranks, dtype=torch.bool))
        dependencies = self._among(index.padded(step.columns - self._prompt_length))
        scores = scores_of_walk(step, self.order, dependencies, is_position)
        rule = (self.dependency_bound, self.rule, self.symmetric)
        kept = SELECTIONS[self.selection](dependencies, scores, is_position, *rule)
        return step.at_positions(index.flat(kept), False)

    def _among(self, places: torch.Tensor) -> torch.Tensor:
        """Return `D[source, target]` of shape `(rows, positions, positions)` among places of the answer."""
        if self.table is None:
            return torch.ones(*places.shape, places.shape[-1], device=places.device)
        if self._dependencies is None:
            raise RuntimeError("`bind` must be called before `select`, got a strategy without its table.")
        size = len(self._dependencies)
        if self._dependencies.ndim == 1:
            farthest = size // 2
            distances = (places[:, None, :] - places[:, :, None]).clamp(-farthest, farthest)
            return self._dependencies.to(places.device)[distances + farthest]
        is_known = (places >= 0) & (places < size)
        places = places.clamp(0, size - 1)
        found = self._dependencies.to(places.device)[places[:, :, None], places[:, None, :]]
        return torch.where(is_known[:, :, None] & is_known[:, None, :], found, 1.0)


def write_table(file: str | Path, table: torch.Tensor) -> None:
    """Write a table of dependencies as JSON, with four decimals.

    Args:
        file (`str` or `Path`):
            The file.
        table (`torch.Tensor` of shape `(positions, positions)` or `(2 * n + 1,)`):
            `D[source, target]` between positions of the answer, in [0, 1]; the diagonal is ignored. Or by distance,
            the target's place minus the source's, from -n to n; pairs that lie farther apart have the outermost ones.

    Raises:
        ValueError: if it is no such table.
    """
    table = _checked("table", table.detach())
    rows = [[round(value, 4) for value in row] for row in torch.atleast_2d(table).tolist()]
    write_json(Path(file), {_ENTRY: rows if table.ndim == 2 else rows[0]})


def read_table(file: str | Path) -> torch.Tensor:
    """Return a table that [`write_table`] wrote, float32, rounded to multiples of 1/4096.

    Raises:
        ValueError: if the file holds no table.
    """
    if not Path(file).is_file():
        raise ValueError(f"`table` must be a file with a table of dependencies, got {str(file)!r}, which is none.")
    facts: dict[str, Any] = read_json(Path(file))
    rows, place = facts.get(_ENTRY), f"{_ENTRY}` in `{file}"
    try:
        table = torch.tensor(rows, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"`{place}` must be rows of numbers, all of one length.") from None
    return (_checked(place, table) * _FRACTIONS).round() / _FRACTIONS


def _checked(name: str, table: torch.Tensor) -> torch.Tensor:
    """Return the table if it is one."""
    if table.ndim == 1 and table.numel():
        if table.numel() % 2 == 0:
            raise ValueError(f"`{name}` must have an odd number of distances, from -n to n, got {table.numel()}.")
    elif table.ndim != 2 or table.shape[0] != table.shape[1] or not table.numel():
        raise ValueError(f"`{name}` must have one row and one column a position, got shape {tuple(table.shape)}.")
    # NaN is neither below 0 nor above 1.
    if not ((table >= 0) & (table <= 1)).all():
        raise ValueError(f"`{name}` must hold numbers in [0, 1], got one that is not.")
    return table
