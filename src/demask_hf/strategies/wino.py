"""WINO: unmask widely, then take back what shadow tokens, which do not see it, would not have written."""

from dataclasses import dataclass, field

import torch

from ..functional.dependency import ranks
from ..validation import check_choice, check_interval
from .base import Compiled, UnmaskingStrategy, as_it_is, register_strategy
from .decision import Decision
from .needs import Need, Shadows
from .settings import DecodingSettings
from .step import DenoisingStep


FORMS = ("aligned", "authors", "d2cache")
# Positions written in the step before a block's first one, as in the authors' code.
_BEFORE_THE_FIRST = 30


@register_strategy("wino")
@dataclass
class WinoStrategy(UnmaskingStrategy):
    r"""Unmask every position above a low threshold, and remask written ones that their shadow gives a low probability.

    Of `n` masks of the block, those with a probability above `confidence_threshold` are written, at most `min(max(0.7
    n, 5), 20)` of them, and at least the best one. In the same forward each position of the block has a shadow, a mask
    that does not see the token there. If more than one position is written, positions that were written in earlier
    steps and whose token has a probability below `verification_threshold` in its shadow are remasked: all of them, or
    where they are as many as were written in the step before, one fewer than that, the least likely ones (WINO, arXiv
    2507.18578). So a step computes one position more for each of the block. Masks of the prompt are not verified.

    Models with shifted logits (Dream) read the prediction for position `j` at `j - 1`. The shadow of `j` stands there,
    and does not see `j`. Public code puts the shadows where unshifted models have them, and shifts the whole sequence
    with them: a token is then verified by a shadow that sees it.

    Args:
        confidence_threshold (`float`, *optional*, defaults to 0.6):
            Exclusive lower limit of what is written, in [0, 1].
        verification_threshold (`float`, *optional*, defaults to 0.9):
            Lowest probability of what stays, in [0, 1].
        form (`str`, *optional*, defaults to `"aligned"`):
            "aligned" has the shadows in the right places for every model. "authors" and "d2cache" are public codes
            with their shadows for shifted models; the latter writes at the threshold, too, and remasks fewer positions
            than it writes in the same step.

    Example:

    Each pair of digits has a given sum. Pairs that clash are taken back until all fit:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> settings = {"confidence_threshold": 0.1, "output_history": True}
    >>> output = model.generate(**prompt, strategy="wino", return_dict_in_generate=True, **settings)
    >>> print(*output.drafts(tokenizer)[2:5], output.drafts(tokenizer)[-1], sep="\n")
    1+1, _+_, _+_, 9+9, _+_, 8+6
    _+_, _+9, 1+1, 9+9, 1+2, 8+_
    1+6, 3+9, _+_, 9+9, 1+_, _+3
    1+6, 3+9, 4+1, 9+9, 1+2, 8+3

    ```
    """

    confidence_threshold: float = 0.6
    verification_threshold: float = 0.9
    form: str = "aligned"
    _settings: DecodingSettings | None = field(default=None, init=False, repr=False, compare=False)
    _before: torch.Tensor | None = field(default=None, init=False, repr=False, compare=False)

    remasks = True
    sequential_order = "token_probability"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"token_probability", Shadows(is_aligned=self.form == "aligned")})

    def __post_init__(self):
        check_interval("confidence_threshold", self.confidence_threshold, 0, 1)
        check_interval("verification_threshold", self.verification_threshold, 0, 1)
        check_choice("form", self.form, FORMS)

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        self._settings = settings

    def select(self, step: DenoisingStep) -> Decision:
        certainty = step.score("token_probability")
        is_sure = certainty > self.confidence_threshold
        if self.form == "d2cache":
            is_sure = certainty >= self.confidence_threshold
        num_masked = step.candidates.sum(dim=-1, keepdim=True)
        most = (num_masked * 0.7).long().clamp(min=5).clamp(max=20)
        selected = step.at_positions(is_sure, False) & (step.rank(certainty) < most)
        selected = selected | (step.best(certainty, 1) & ~selected.any(dim=-1, keepdim=True))
        num_selected = selected.sum(dim=-1, keepdim=True)
        return Decision(selected, remasked=self._rejected(step, num_selected))

    def _rejected(self, step: DenoisingStep, num_selected: torch.Tensor) -> torch.Tensor:
        """Return the written positions to remask, given how many are written now, of shape `(batch, 1)`."""
        before = torch.full_like(num_selected, _BEFORE_THE_FIRST) if self._before is None else self._before
        before = torch.where((step.block_step_index == 0)[:, None], _BEFORE_THE_FIRST, before)
        self._before = num_selected
        kept = step.given("review").kept_probability
        is_low = self._in_block(step) & (kept < self.verification_threshold)
        num_low = is_low.sum(dim=-1, keepdim=True)
        limits = num_selected - 1 if self.form == "d2cache" else torch.where(num_low >= before, before - 1, num_low)
        order = ranks(torch.where(is_low, -kept.double(), float("-inf")))
        return is_low & (order < limits) & (num_selected > 1)

    def _in_block(self, step: DenoisingStep) -> torch.Tensor:
        """Return the written positions of each row's block of new tokens, shape `(batch, length)`."""
        written, columns = step.given("written"), torch.arange(step.candidates.shape[1], device=step.candidates.device)
        if self._settings is None:
            return written
        answer = columns - self._settings.prompt_length
        blocks = (answer // self._settings.block_length).clamp(min=0)
        current = torch.where(step.candidates, blocks, blocks.max()).amin(dim=-1, keepdim=True)
        return written & (answer >= 0) & (blocks == current)
