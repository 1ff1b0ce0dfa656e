"""Generate, then edit: decode with another strategy, remask what does not fit to the rest, and write it again."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ..functional.dependency import ranks
from ..validation import check_choice, check_count, check_interval
from .base import Compiled, UnmaskingStrategy, WrappingStrategy, as_it_is, make_strategy, register_strategy
from .decision import Decision
from .demask import DemaskStrategy
from .needs import Need
from .settings import DecodingSettings
from .step import DenoisingStep


DOUBTS = ("confidence", "dependency")
# Probes of one forward.
_MAX_PROBES = 256


@register_strategy("edit")
@dataclass
class EditStrategy(WrappingStrategy):
    r"""Unmask with another strategy; when a row is complete, remask what the model doubts, and write it again.

    The step that would complete a row looks at it as it would be (generate, then edit; after arXiv 2601.15593). With
    `doubt="confidence"` each written position is masked alone, and one probe forward predicts it from all the others:
    it is doubted if its token has less than `edit_threshold` of the probability of the most likely one. This finds
    what pairs of positions cannot tell, such as the digits of a Sudoku. With "dependency" nothing is measured: doubted
    are the positions whose predicted dependencies on others that were written in the same step had the largest sum.
    Doubted positions are masked again and written one at a time. Then the row is complete again, and is looked at
    again, up to `max_looks` times in all.

    A look costs no forward pass of its own; the probes of "confidence", one for each position, are counted in
    `num_probe_passes`. Logits processors do not apply to them.

    Args:
        inner (`str` or `dict`, *optional*, defaults to `"demask"`):
            The strategy that decodes: its name, or name and fields; it must not remask, make drafts, or select in all
            blocks.
        doubt (`str`, *optional*, defaults to `"confidence"`):
            "confidence", or "dependency" where `inner` is "demask".
        edit_threshold (`float`, *optional*, defaults to 0.5):
            Share of the probability of the most likely token, for "confidence", in [0, 1].
        edit_share (`float`, *optional*, defaults to 1.0):
            Share of the answer that a look remasks at most, the most doubtful positions, rounded up; in (0, 1].
        max_looks (`int`, *optional*, defaults to 3):
            Looks at a row, at least 1.
        max_probes (`int`, *optional*):
            Positions that a look probes at most, at least 1: those with the largest sum of dependencies when they were
            written, or for other strategies than "demask" with the smallest probability. By default all.

    Example:

    Each pair of digits has a given sum. The first step would write "1+1, 9+9, 1+1" for the sums 7, 12 and 5; the look
    at it keeps what fits:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> settings = {"inner": {"name": "threshold", "confidence_threshold": 0.1}, "output_history": True}
    >>> output = model.generate(**prompt, strategy="edit", return_dict_in_generate=True, **settings)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _+_, _+_, _+_, 9+9, 1+2, 5+6
    _+_, _+_, 1+_, 9+9, 1+2, 5+6
    _+_, _+_, 1+4, 9+9, 1+2, 5+6
    _+_, _+9, 1+4, 9+9, 1+2, 5+6
    _+_, 3+9, 1+4, 9+9, 1+2, 5+6
    1+_, 3+9, 1+4, 9+9, 1+2, 5+6
    1+6, 3+9, 1+4, 9+9, 1+2, 5+6

    ```
    """

    inner: Any = "demask"
    doubt: str = "confidence"
    edit_threshold: float = 0.5
    edit_share: float = 1.0
    max_looks: int = 3
    max_probes: int | None = None
    _inner: UnmaskingStrategy | None = field(default=None, init=False, repr=False, compare=False)
    _settings: DecodingSettings | None = field(default=None, init=False, repr=False, compare=False)
    _memory: "_Memory | None" = field(default=None, init=False, repr=False, compare=False)

    remasks = True

    def __post_init__(self):
        if isinstance(self.inner, UnmaskingStrategy):
            self.inner = self.inner.to_dict()
        described = {"name": self.inner} if isinstance(self.inner, str) else self.inner
        if not isinstance(described, dict) or "name" not in described:
            raise ValueError(f"`inner` must be a strategy's name, or hold its `name`, got {self.inner!r}.")
        self._inner = make_strategy(**described)
        if self._inner.remasks or self._inner.num_versions > 1 or self._inner.selects_in_all_blocks:
            raise ValueError(
                "`inner` must be a strategy that does not remask, make drafts, or select in all blocks, got "
                f"{self._inner.name!r}."
            )
        check_choice("doubt", self.doubt, DOUBTS)
        if self.doubt == "dependency" and not isinstance(self._inner, DemaskStrategy):
            raise ValueError(f"`doubt` must be 'confidence' for an `inner` other than 'demask', got {self.doubt!r}.")
        check_interval("edit_threshold", self.edit_threshold, 0, 1)
        check_interval("edit_share", self.edit_share, 0, 1, open_low=True)
        check_count("max_looks", self.max_looks)
        if self.max_probes is not None:
            check_count("max_probes", self.max_probes)
        if isinstance(self._inner, DemaskStrategy):
            self._inner.keep_costs()

    @property
    def wrapped(self) -> tuple[UnmaskingStrategy, ...]:
        return () if self._inner is None else (self._inner,)

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"token_probability"}

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        super().bind(model, settings, compiled)
        self._settings = settings

    def select(self, step: DenoisingStep) -> Decision:
        memory = self._memory or _Memory.empty(step)
        selected, tokens, suspicion = self._written(step, memory.num_looks > 0)
        suspicion = torch.where(selected, suspicion, memory.suspicion)
        after = torch.where(selected, tokens, step.sequences)
        checked, is_complete = self._checked(step, after, selected | step.given("written"))
        looks = is_complete & (memory.num_looks < self.max_looks)
        doubted = self._doubted(step, after, checked & looks[:, None], suspicion)
        self._memory = _Memory(suspicion, memory.num_looks + looks)
        return Decision(selected & ~doubted, tokens, doubted & step.given("written"))

    def _written(self, step: DenoisingStep, is_edit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what is to be written, all tokens, and how suspect each is; one position a step where `is_edit`."""
        inner, tokens = self.wrapped[0], step.at_positions(step.tokens, 0)
        surest = step.best(step.score("confidence"), 1)
        decision = inner.select(step) if step.index.host_active else Decision(step.candidates)
        if isinstance(decision, Decision):
            if decision.tokens is not None:
                tokens = torch.where(decision.selected & ~is_edit[:, None], decision.tokens, tokens)
            decision = decision.selected
        selected = decision & step.candidates
        if not inner.allows_empty_step:
            selected = selected | (surest & ~selected.any(dim=-1, keepdim=True))
        if isinstance(inner, DemaskStrategy):
            suspicion = inner.costs.masked_fill(is_edit[:, None], 0.0)
        else:
            suspicion = 1 - step.at_positions(step.score("token_probability"), 1.0)
        return torch.where(is_edit[:, None], surest, selected), tokens, suspicion

    def _checked(
        self, step: DenoisingStep, after: torch.Tensor, written: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the written positions before the end of each row, and whether none of the row is masked then."""
        settings, columns = self._settings, torch.arange(after.shape[1], device=after.device)
        is_end = torch.zeros_like(written)
        if settings is not None:
            for token in settings.eos_token_ids:
                is_end |= (after == token) & (columns >= settings.prompt_length)
        is_kept = (is_end.long().cumsum(dim=-1) - is_end.long() == 0) & step.is_real
        is_open = is_kept & (after == step.mask_token_id)
        return written & is_kept, step.candidates.any(dim=-1) & ~is_open.any(dim=-1)

    def _doubted(
        self, step: DenoisingStep, after: torch.Tensor, checked: torch.Tensor, suspicion: torch.Tensor
    ) -> torch.Tensor:
        """Return the positions to remask among those that are checked."""
        limits = (checked.sum(dim=-1, keepdim=True).double() * self.edit_share).ceil()
        if self.doubt == "dependency":
            scores, is_due = suspicion, checked & (suspicion > 0)
        else:
            if self.max_probes is not None:
                checked = checked & (_ranked(suspicion, checked) < self.max_probes)
            scores = self._missing(step, after, checked)
            is_due = checked & (scores > 1 - self.edit_threshold)
        return is_due & (_ranked(scores, is_due) < limits)

    def _missing(self, step: DenoisingStep, after: torch.Tensor, checked: torch.Tensor) -> torch.Tensor:
        """Return how much less likely each checked token is than the most likely one, given all others, in [0, 1]."""
        rows, columns = checked.nonzero(as_tuple=True)
        scores = torch.zeros(checked.shape, device=checked.device)
        for start in range(0, rows.numel(), _MAX_PROBES):
            part = slice(start, start + _MAX_PROBES)
            own, places = rows[part], columns[part, None]
            hidden = after[own].scatter_(1, places, step.mask_token_id)
            asked = torch.zeros_like(hidden, dtype=torch.bool).scatter_(1, places, True)
            probabilities = step.forward(hidden, own, asked)
            probabilities[:, step.mask_token_id] = 0.0
            kept = probabilities.gather(-1, after[own].gather(1, places)).squeeze(-1)
            scores[own, places.squeeze(-1)] = 1 - kept / probabilities.amax(dim=-1).clamp(min=1e-30)
        step.ledger.num_probe_passes += checked.sum(dim=-1)
        return scores


def _ranked(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the rank of each place in its row, 0 for the highest score; ties go to the earlier position."""
    return ranks(torch.where(places, scores.double(), float("-inf")))


@dataclass(frozen=True)
class _Memory:
    """How suspect each position was when it was written, and the looks at each row so far."""

    suspicion: torch.Tensor
    num_looks: torch.Tensor

    @classmethod
    def empty(cls, step: DenoisingStep) -> "_Memory":
        """Return the memory before the first step."""
        return cls(
            torch.zeros(step.candidates.shape, device=step.candidates.device), torch.zeros_like(step.step_index)
        )
