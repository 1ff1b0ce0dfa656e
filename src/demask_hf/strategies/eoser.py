"""EOSER: a schedule that ranks end-of-sequence tokens lower, and less so from step to step."""

from dataclasses import dataclass, field

import torch

from ..validation import check_choice, check_interval
from .base import Compiled, as_it_is, register_strategy
from .schedule import ScheduleStrategy
from .sequential import position_scores
from .settings import DecodingSettings
from .step import DenoisingStep


@register_strategy("eoser")
@dataclass
class EoserStrategy(ScheduleStrategy):
    r"""Unmask by a schedule, ranking positions that would get an end-of-sequence token lower at first.

    Their confidence is multiplied by a factor that rises from step to step.
    In step `i` of a block, counted from 0, and with `s` steps for the whole answer, the factor is
    `start + (end - start) * i / (s - 1)`; with the plan "ass" `start + (end - start) * (2^(i + 1) - 1) / 2^s` (EOSER,
    arXiv 2509.23924). As in the public code `s` counts the steps of all blocks: with several, the factor starts anew
    in each and does not reach the end.

    Args:
        algorithm (`str`, *optional*, defaults to `"maskgit_plus"`):
            "maskgit_plus" or "topk_margin", see [`ScheduleStrategy`].
        eps (`float`, *optional*, defaults to 0.001):
            As of [`ScheduleStrategy`], for the plan "dream".
        alg_temp (`float`, *optional*):
            As of [`ScheduleStrategy`].
        plan (`str`, *optional*, defaults to `"llada"`):
            As of [`ScheduleStrategy`]; "ass" is the paper's EOSER + ASS, with `floor(log2(length))` steps.
        ascending_blocks (`int`, *optional*, defaults to 1):
            As of [`ScheduleStrategy`].
        start (`float`, *optional*, defaults to 0.4):
            First factor, in [0, 1].
        end (`float`, *optional*, defaults to 1.0):
            Last factor, in [0, 1].

    Example:

    Each pair of digits has a given sum. Ascending step sizes: the last step writes most, and clashes:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> settings = {"max_denoising_steps": 5, "plan": "ass", "start": 0.01}
    >>> output = model.generate(**prompt, strategy="eoser", return_dict_in_generate=True, **settings)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _+______________________
    _+_, _+__________________
    _+_, _+_, _+_, _+__________
    _+_, _+_, _+_, 9+9, _+_, _+__
    1+1, 6+9, 1+1, 9+9, 2+2, 5+6

    ```
    """

    algorithm: str = "maskgit_plus"
    plan: str = "llada"
    start: float = 0.4
    end: float = 1.0
    _settings: DecodingSettings | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self):
        super().__post_init__()
        check_choice("algorithm", self.algorithm, ("maskgit_plus", "topk_margin"))
        check_interval("start", self.start, 0, 1)
        check_interval("end", self.end, 0, 1)

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        self._settings = settings

    def _scores(self, step: DenoisingStep) -> torch.Tensor:
        scores = position_scores(step, self.sequential_order).double()
        if self._settings is None:
            return scores
        is_end = torch.zeros_like(step.tokens, dtype=torch.bool)
        for token in self._settings.ending_token_ids:
            is_end |= step.tokens == token
        return torch.where(is_end, scores * self._factors(step, self._settings)[step.rows], scores)

    def _factors(self, step: DenoisingStep, settings: DecodingSettings) -> torch.Tensor:
        """Return the factor of each row, shape `(batch,)`."""
        num_steps = settings.num_steps or max(settings.num_new_tokens, 1)
        index = step.block_step_index.double()
        rising = index / max(num_steps - 1, 1)
        share = (2 ** (index + 1) - 1) / 2.0**num_steps if self.plan == "ass" else rising
        return self.start + (self.end - self.start) * share.clamp(max=1.0)
