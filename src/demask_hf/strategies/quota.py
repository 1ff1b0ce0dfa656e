"""The rule of SDAR and LLaDA2.0: a quota of each block in each step, or everything confident if that is more."""

from dataclasses import dataclass, field

import torch

from ..validation import check_choice, check_count, check_interval
from .base import Compiled, UnmaskingStrategy, as_it_is, register_strategy
from .needs import Need
from .sequential import needs_of_order, position_scores
from .settings import DecodingSettings
from .step import DenoisingStep


ORDERS = ("token_probability", "left_to_right")


@register_strategy("quota")
@dataclass
class QuotaStrategy(UnmaskingStrategy):
    r"""Unmask a quota of each block in each step, or all that are confident enough if these are at least as many.

    The length of a block is spread evenly over its steps, the remainder over the first ones; this is the quota of each
    step, whatever is masked in the block. With one step per token it is 1, and the rule that of "threshold", up to
    equality. LLaDA2.0's `generate` is this rule with 32 steps for blocks of 32 and a threshold of 0.95 (arXiv
    2512.15745); SDAR's `block_diffusion_generate` (arXiv 2510.06303) with 4 for blocks of 4 and 0.85, where "static"
    has no threshold and "sequential" the order from left to right, too.

    Args:
        steps_per_block (`int`, *optional*):
            Steps over which a block is spread, at least 1; by default one per token.
        confidence_threshold (`float`, *optional*, defaults to 0.9):
            Positions whose drawn token has a higher probability are confident, in [0, 1]; `None` for the quota alone.
        order (`str`, *optional*, defaults to `"token_probability"`):
            Which positions are the quota: "token_probability" (those whose drawn token is most probable) or
            "left_to_right".

    Example:

    Each pair of digits has a given sum. Blocks of 13 tokens in two steps, a quota of 7 and one of 6:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> settings = {"steps_per_block": 2, "block_length": 13, "max_new_tokens": 26, "return_dict_in_generate": True}
    >>> output = model.generate(**prompt, strategy="quota", **settings)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _+_, _+_, _+_, 9___________
    1+1, 9+9, 1+1, 9___________
    1+1, 9+9, 1+1, 9+9, _+_, _+_
    1+1, 9+9, 1+1, 9+9, 3+2, 5+6

    ```
    """

    steps_per_block: int | None = None
    confidence_threshold: float | None = 0.9
    order: str = "token_probability"
    _block_length: int | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def sequential_order(self) -> str:
        return self.order

    @property
    def needs(self) -> frozenset[Need]:
        return needs_of_order("token_probability" if self.confidence_threshold is not None else self.order)

    def __post_init__(self):
        if self.steps_per_block is not None:
            check_count("steps_per_block", self.steps_per_block)
        if self.confidence_threshold is not None:
            check_interval("confidence_threshold", self.confidence_threshold, 0, 1)
        check_choice("order", self.order, ORDERS)

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        self._block_length = None if settings is None else settings.block_length

    def select(self, step: DenoisingStep) -> torch.Tensor:
        quotas = self._quotas(step)
        best = step.best(position_scores(step, self.order), quotas)
        if self.confidence_threshold is None:
            return best
        is_confident = step.at_positions(step.score("token_probability") > self.confidence_threshold, False)
        return torch.where((is_confident.sum(dim=-1) >= quotas)[:, None], is_confident, best)

    def _quotas(self, step: DenoisingStep) -> torch.Tensor:
        """Return the quota of each row in this step, at least 1, shape `(batch,)`."""
        index = step.block_step_index
        if self.steps_per_block is None or self._block_length is None:
            return torch.ones_like(index)
        each, rest = divmod(self._block_length, self.steps_per_block)
        return (each + (index < rest).long()).clamp(min=1)
