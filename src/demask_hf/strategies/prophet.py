"""Prophet: any strategy, until the model is sure of the answer; then everything is written at once."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ..validation import check_count, check_interval
from .base import Compiled, UnmaskingStrategy, WrappingStrategy, as_it_is, make_strategy, register_strategy
from .decision import Decision
from .drafts import Drafts
from .needs import AnswerGaps, Need
from .settings import DecodingSettings
from .step import DenoisingStep


@register_strategy("prophet")
@dataclass
class ProphetStrategy(WrappingStrategy):
    r"""Unmask as another strategy does, and everything that is left once the gaps of the logits are large.

    The gap of a position is the largest logit minus the second largest. Its mean over a region of the answer, whose
    positions count whether they are written or not, is compared in every step with a limit that falls in three
    stages. Where it is reached, all masks of the row, those of later blocks included, get the tokens of this forward
    (Prophet, arXiv 2508.19982). Progress is the number of the step, from 1, divided by the planned steps; for
    strategies without a plan, the number of written tokens plus 1 divided by that of all.

    Args:
        inner (`str` or `dict`, *optional*, defaults to `"sequential"`):
            The other strategy: its name, or its name and fields such as `{"name": "schedule", "plan": "llada"}`; it
            must not remask.
        early_gap (`float`, *optional*, defaults to 7.5):
            Limit while progress is below 0.33; at least 0.
        middle_gap (`float`, *optional*, defaults to 5.0):
            Limit while it is below 0.67; at least 0.
        late_gap (`float`, *optional*, defaults to 2.5):
            Limit from then on; at least 0.
        answer_start (`int`, *optional*, defaults to 0):
            First position of the region, counted from the first new token; negative in a prompt with masks. In the
            authors' evaluation it is where "The answer is" ends.
        answer_length (`int`, *optional*, defaults to 5):
            Positions in the region, fewer where the sequence ends before; at least 1.

    Example:

    Each pair of digits has a given sum. The separators are so sure that the mean gap passes the limit at once, and
    digits of a pair that are written together clash:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="prophet", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer), sep="\n")
    1+1, 9+9, 1+1, 9+9, 1+2, 5+6

    ```
    """

    inner: str | dict[str, Any] = "sequential"
    early_gap: float = 7.5
    middle_gap: float = 5.0
    late_gap: float = 2.5
    answer_start: int = 0
    answer_length: int = 5
    _inner: UnmaskingStrategy | None = field(default=None, init=False, repr=False, compare=False)
    _settings: DecodingSettings | None = field(default=None, init=False, repr=False, compare=False)

    selects_in_all_blocks = True

    def __post_init__(self):
        for name in ("early_gap", "middle_gap", "late_gap"):
            check_interval(name, getattr(self, name), 0, infinite=True)
        if not isinstance(self.answer_start, int) or isinstance(self.answer_start, bool):
            raise ValueError(f"`answer_start` must be an integer, got {self.answer_start!r}.")
        check_count("answer_length", self.answer_length)
        given = {"name": self.inner} if isinstance(self.inner, str) else self.inner
        if not isinstance(given, dict) or "name" not in given or given["name"] == self.name:
            raise ValueError(
                "`inner` must be the name of another strategy, or a dict with its name and fields, got "
                f"{self.inner!r}."
            )
        self._inner = make_strategy(**given)
        if self._inner.remasks:
            raise ValueError(f"`inner` must be a strategy that does not remask, got {self._inner.name!r}.")

    @property
    def wrapped(self) -> tuple[UnmaskingStrategy, ...]:
        return (self._inner,)  # type: ignore[return-value]

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {AnswerGaps(self._first_column, self.answer_length)}

    @property
    def num_versions(self) -> int:
        return self.wrapped[0].num_versions

    @property
    def _first_column(self) -> int:
        return max(self.answer_start + (0 if self._settings is None else self._settings.prompt_length), 0)

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        super().bind(model, settings, compiled)
        self._settings = settings
        if settings is not None and not -settings.prompt_length <= self.answer_start < settings.num_new_tokens:
            raise ValueError(
                f"`answer_start` must lie in the sequence, in [{-settings.prompt_length}, {settings.num_new_tokens}), "
                f"got {self.answer_start}."
            )

    def select(self, step: DenoisingStep) -> torch.Tensor | Decision:
        inner, within = self.wrapped[0], _in_block(step)
        decision = inner.select(within)
        if not isinstance(decision, Decision):
            decision = Decision(decision)
        selected = decision.selected & within.candidates
        if not inner.allows_empty_step:
            selected |= within.best(within.score("confidence"), 1) & ~selected.any(dim=-1, keepdim=True)
        # The gaps are float32 and their mean float64, as in the public code.
        region = slice(self._first_column, self._first_column + self.answer_length)
        gap = step.given("logit_gaps")[:, region].double().mean(dim=-1)
        is_sure = (gap >= self._limits(step))[:, None]
        if decision.tokens is None:
            return torch.where(is_sure, step.candidates, selected)
        tokens = torch.where(selected & decision.selected, decision.tokens, step.at_positions(step.tokens, 0))
        return Decision(torch.where(is_sure, step.candidates, selected), tokens)

    def drafts(self, step: DenoisingStep, selected: torch.Tensor) -> Drafts | None:
        return self.wrapped[0].drafts(_in_block(step), selected)

    def accepts(self, drafts: torch.Tensor, outcomes: torch.Tensor, num_steps: torch.Tensor) -> torch.Tensor:
        return self.wrapped[0].accepts(drafts, outcomes, num_steps)

    def _limits(self, step: DenoisingStep) -> torch.Tensor:
        """Return the limit of each row, shape `(batch,)`, float64."""
        if self.follows_schedule and self._settings is not None and self._settings.num_steps is not None:
            progress = (step.step_index + 1).double() / self._settings.num_steps
        else:
            first = 0 if self._settings is None else self._settings.prompt_length
            is_written = step.sequences[:, first:] != step.mask_token_id
            progress = (is_written.sum(dim=-1) + 1).double() / max(is_written.shape[1], 1)
        limits = torch.full_like(progress, self.late_gap)
        limits = torch.where(progress < 0.67, self.middle_gap, limits)
        return torch.where(progress < 0.33, self.early_gap, limits)


def _in_block(step: DenoisingStep) -> DenoisingStep:
    """Return the step with the candidates of each row's block only, which is what the other strategy sees."""
    return step if step.in_block is None else step.among(step.candidates & step.in_block)
