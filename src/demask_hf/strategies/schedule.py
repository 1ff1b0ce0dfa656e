"""A fixed schedule sets how many positions each step unmasks: the samplers of Dream, LLaDA and MDLM."""

from dataclasses import dataclass

import torch

from ..functional.masking import unmask_shares
from ..validation import check_choice, check_count, check_interval
from .base import UnmaskingStrategy, register_strategy
from .needs import Need
from .sequential import needs_of_order, position_scores
from .step import DenoisingStep


# Score of each algorithm, under the names of Dream's public code.
ALGORITHMS = {"origin": None, "maskgit_plus": "token_probability", "topk_margin": "margin", "entropy": "entropy"}
# Beyond every length; a larger shift would overflow.
_MAX_DOUBLINGS = 40
PLANS = ("dream", "llada", "mdlm", "ass")


@register_strategy("schedule")
@dataclass
class ScheduleStrategy(UnmaskingStrategy):
    r"""Unmask a number of positions per step that is fixed in advance, as Dream's `diffusion_generate` does.

    With `t = linspace(1, eps, steps + 1)` step `i` unmasks `int(n * (1 - t[i + 1] / t[i]))` of the `n` masked
    positions of a row, and the last step the rest. With one step per token the first step therefore unmasks nothing
    and the last one two. The plans of other public samplers spread the positions evenly. The number of steps is
    `max_denoising_steps`, by default one per token.

    Args:
        algorithm (`str`, *optional*, defaults to `"entropy"`):
            Which positions to unmask: "maskgit_plus" (highest probability of the drawn token), "topk_margin" (largest
            gap between the two best tokens), "entropy" (lowest entropy), or "origin" (each position by a coin flip).
        eps (`float`, *optional*, defaults to 0.001):
            Noise level at the end of the schedule, in (0, 1].
        alg_temp (`float`, *optional*):
            Draw positions from softmax(score / alg_temp) without replacement instead of taking the best; at least 0; 0
            and `None` take the best.
        plan (`str`, *optional*, defaults to `"dream"`):
            How many positions a step unmasks if `n` are masked and `s` steps are left: "dream" as above, "llada" the
            ceiling of `n / s` (LLaDA's `generate.py`, with "maskgit_plus" for its "low_confidence"), "mdlm" `n / s`
            rounded, halves to even (the samplers of A2D), "ass" 1, 2, 4, ... and in the last step the rest (ascending
            step sizes, arXiv 2509.23924). "origin" has the first one only.
        ascending_blocks (`int`, *optional*, defaults to 1):
            Unequal blocks of the plan "ass", from left to right, at least 1: with `b` of them and `s` steps, the steps
            1 to `s - b + 1` choose among the first `2^(s - b + 1) - 1` positions, each later step has the next block
            for itself, as large as its number of positions. With 1 every step chooses among all positions.

    Example:

    Each pair of digits has a given sum. Eight steps, whatever the model predicts:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="schedule", max_denoising_steps=8, return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _+_______+_______+______
    _+___+_, _+_______+_, _+__
    _+_, _+_, _+_, _+_, _+_, _+__
    _+_, _+_, _+_, _+_, _+_, _+__
    _+_, _+_, _+_, _+_, _+_, _+_
    _+_, _+_, _+_, 9+9, _+2, _+_
    _+_, _+9, 1+1, 9+9, 1+2, _+_
    1+1, 3+9, 1+1, 9+9, 1+2, 8+6

    ```
    """

    algorithm: str = "entropy"
    eps: float = 0.001
    alg_temp: float | None = None
    plan: str = "dream"
    ascending_blocks: int = 1

    allows_empty_step = True
    follows_schedule = True

    @property
    def sequential_order(self) -> str:
        return ALGORITHMS[self.algorithm] or "random"

    @property
    def needs(self) -> frozenset[Need]:
        return needs_of_order(ALGORITHMS[self.algorithm])

    def __post_init__(self):
        check_choice("algorithm", self.algorithm, tuple(ALGORITHMS))
        check_interval("eps", self.eps, 0, 1, open_low=True)
        if self.alg_temp is not None:
            check_interval("alg_temp", self.alg_temp, 0)
        check_choice("plan", self.plan, PLANS)
        check_count("ascending_blocks", self.ascending_blocks)
        if self.ascending_blocks > 1 and self.plan != "ass":
            raise ValueError(f"`ascending_blocks` must be 1 with `plan={self.plan!r}`, got {self.ascending_blocks}.")
        if self.plan != "dream" and ALGORITHMS[self.algorithm] is None:
            raise ValueError(f"`plan` must be 'dream' for algorithm 'origin', which flips coins, got {self.plan!r}.")

    def select(self, step: DenoisingStep) -> torch.Tensor:
        score = ALGORITHMS[self.algorithm]
        if score is None:
            shares = self._shares(step)
            return step.candidates & (step.at_positions(step.noise(stream=1), 1.0) < shares[:, None])
        counts = self._counts(step)
        scores = self._scores(step)
        if self.alg_temp:
            # The largest values of score / alg_temp + Gumbel noise are a draw from the softmax without replacement.
            scores = scores.double() / self.alg_temp - (-step.noise(stream=1).log()).log()
        if self.ascending_blocks > 1:
            scores = scores.masked_fill(self._is_later_block(step), float("-inf"))
        return step.best(scores, counts)

    def _is_later_block(self, step: DenoisingStep) -> torch.Tensor:
        """Return which candidates lie behind the current ascending block, shape `(num_candidates,)`."""
        index = step.block_step_index.clamp(max=_MAX_DOUBLINGS)
        # Before step `i`, `2^i - 1` positions are written, all before the end of its block.
        end = (step.num_block_steps - self.ascending_blocks).clamp(max=_MAX_DOUBLINGS).maximum(index) + 1
        num_left = (1 << end) - (1 << index)
        num_left = torch.where(index == step.num_block_steps - 1, step.num_masked, num_left)
        return step.index.slots >= num_left[step.rows]

    def _scores(self, step: DenoisingStep) -> torch.Tensor:
        """Return the score by which positions are ranked, higher first, shape `(num_candidates,)`."""
        return position_scores(step, self.sequential_order)

    def _counts(self, step: DenoisingStep) -> torch.Tensor:
        """Return the number of positions to unmask in each row, shape `(batch,)`."""
        if self.plan == "dream":
            return (step.num_masked.float() * self._shares(step)).long()
        num_left = (step.num_block_steps - step.block_step_index).clamp(min=1)
        if self.plan == "ass":
            doubled = torch.ones_like(num_left) << step.block_step_index.clamp(max=_MAX_DOUBLINGS)
            return torch.where(num_left == 1, step.num_masked, doubled)
        if self.plan == "llada":
            return (step.num_masked + num_left - 1) // num_left
        return (step.num_masked.double() / num_left).round().long()

    def _shares(self, step: DenoisingStep) -> torch.Tensor:
        """Return the share to unmask in each row, float32 as in the public code, of shape `(batch,)`."""
        # A row without candidates has no plan; its share is not used.
        pairs = torch.stack([step.num_block_steps.clamp(min=1), step.block_step_index], dim=-1).tolist()
        tables = {steps: unmask_shares(steps, self.eps) for steps, _ in pairs}
        shares = [tables[steps][min(index, steps - 1)] for steps, index in pairs]
        return torch.stack(shares).to(step.candidates.device, non_blocking=True)
