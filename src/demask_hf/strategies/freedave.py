"""FreeDave: drafts that write the next most confident positions, verified together in one forward."""

from dataclasses import dataclass, field, replace

import torch

from ..validation import check_choice, check_count, check_interval
from .base import Compiled, UnmaskingStrategy, as_it_is, register_strategy
from .drafts import Drafts, nested_drafts
from .sequential import position_scores
from .settings import DecodingSettings
from .step import DenoisingStep


ORDERS = ("confidence", "left_to_right")


@register_strategy("freedave")
@dataclass
class FreedaveStrategy(UnmaskingStrategy):
    r"""Unmask one position at a time, and verify drafts of the next ones in the same forward.

    Draft `k` writes the `k` most confident positions of the last step beside what that step wrote. A row moves on to a
    draft as long as each step before it would have written the same (FreeDave, arXiv 2510.00294). So tokens are those
    of `sequential` with the same order, in fewer passes and with more row forwards.

    With `confidence_threshold` a step writes all positions that are confident enough, and a draft is accepted if it
    holds nothing else than what a step would have written (FreeDave++). This is not lossless: a row moves on to the
    draft, which may hold fewer tokens than the step would have written.

    Args:
        num_versions (`int`, *optional*, defaults to 8):
            Most versions of a row in one forward, the row itself included; at least 1.
        confidence_threshold (`float`, *optional*):
            Lowest probability, in [0, 1], of positions that are written together with the best one.
        order (`str`, *optional*, defaults to `"confidence"`):
            "confidence", or "left_to_right".

    Example:

    Each pair of digits has a given sum. The answer of `sequential`, in 8 passes instead of 26:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="freedave", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _+______________________
    _+_, _+_, _+_, _+_, _+______
    _+_, _+_, _+_, 9+9, _+2, _+_
    _+_, _+_, _+_, 9+9, 1+2, _+_
    _+_, _+_, 1+4, 9+9, 1+2, _+_
    _+_, 3+9, 1+4, 9+9, 1+2, _+_
    1+6, 3+9, 1+4, 9+9, 1+2, _+_
    1+6, 3+9, 1+4, 9+9, 1+2, 5+6

    ```
    """

    num_versions: int = 8
    confidence_threshold: float | None = None
    order: str = "confidence"
    _mask_token_id: int | None = field(default=None, init=False, repr=False, compare=False)
    _end_token_ids: tuple[int, ...] = field(default=(), init=False, repr=False, compare=False)

    needs = frozenset({"confidence"})

    @property
    def sequential_order(self) -> str:
        return self.order

    def __post_init__(self):
        check_count("num_versions", self.num_versions)
        if self.confidence_threshold is not None:
            check_interval("confidence_threshold", self.confidence_threshold, 0, 1)
        check_choice("order", self.order, ORDERS)

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        self._end_token_ids = () if settings is None else tuple(settings.eos_token_ids)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        best = step.best(position_scores(step, self.order), 1)
        if self.confidence_threshold is None:
            return best
        return best | step.at_positions(step.score("confidence") >= self.confidence_threshold, False)

    def drafts(self, step: DenoisingStep, selected: torch.Tensor) -> Drafts | None:
        self._mask_token_id = step.mask_token_id
        if self.num_versions == 1:
            return None
        scores = position_scores(step, self.order)
        drafts = nested_drafts(step, selected, scores, self.num_versions - 1, self._end_token_ids)
        # A step with a threshold may write as much as several drafts add.
        return (
            drafts if self.confidence_threshold is None else replace(drafts, num_steps=drafts.num_steps.clamp(max=1))
        )

    def accepts(self, drafts: torch.Tensor, outcomes: torch.Tensor, num_steps: torch.Tensor) -> torch.Tensor:
        if self.confidence_threshold is None:
            return super().accepts(drafts, outcomes, num_steps)
        return ((drafts == outcomes) | (drafts == self._mask_token_id)).all(dim=-1)
