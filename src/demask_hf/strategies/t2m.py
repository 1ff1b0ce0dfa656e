"""Token editing of LLaDA2.1, and the three token-to-mask rules that send doubtful tokens back to mask instead."""

from dataclasses import dataclass, field

import torch

from ..functional.dependency import ranks
from ..validation import check_choice, check_count, check_interval
from .base import Compiled, UnmaskingStrategy, as_it_is, register_strategy
from .decision import Decision
from .settings import DecodingSettings
from .step import DenoisingStep


#: Each rule with the `remask_threshold` that it has by default; "t2t" remasks nothing.
RULES = {"low_prob": 0.1, "t2t_remask": 0.9, "logit_diff": 0.3, "t2t": 1.0}


@register_strategy("t2m")
@dataclass
class TokenToMaskStrategy(UnmaskingStrategy):
    r"""Unmask what is confident, and in the same step remask (or edit) written tokens that the model now doubts.

    Masked positions with a probability above `confidence_threshold` are written, or else the best one. Positions that
    were written in earlier steps are looked at again, of all blocks, with the token in place. With `rule="low_prob"`
    those are remasked whose token has now a probability below `remask_threshold`; with "t2t_remask" those where
    another token is most likely, with a probability above it; with "logit_diff" those whose token lost more than
    `remask_threshold` of its probability since the step before (token-to-mask remasking, arXiv 2604.18738). "t2t" is
    the original token editing of LLaDA2.1: where another token is most likely, with a probability above
    `editing_threshold`, it is written in place of the old one.

    A row ends with a step without masks that changes nothing, or after `max_review_steps` steps without masks.

    Args:
        confidence_threshold (`float`, *optional*, defaults to 0.7):
            Masked positions with a higher probability are written, in [0, 1].
        rule (`str`, *optional*, defaults to `"low_prob"`):
            "low_prob", "t2t_remask", "logit_diff", or "t2t".
        remask_threshold (`float`, *optional*):
            Limit of the rule, in [0, 1]; by default 0.1 for "low_prob", 0.9 for "t2t_remask", 0.3 for "logit_diff".
        editing_threshold (`float`, *optional*, defaults to 0.5):
            Limit of "t2t", in [0, 1].
        max_position_remasks (`int`, *optional*, defaults to 3):
            How often a position is remasked, at least 1.
        remask_share (`float`, *optional*, defaults to 0.25):
            Share of the written positions that is remasked in a step, rounded down, but at least one position; in
            [0, 1]. Those with the lowest score go first: the probability of the token, with "t2t_remask" 1 minus that
            of the other one, with "logit_diff" minus the loss.
        max_review_steps (`int`, *optional*, defaults to 16):
            Steps of a row with nothing masked, at least 1.

    Example:

    Each pair of digits has a given sum. A low threshold writes pairs that clash, and most of them are taken back. This
    model was not trained to judge tokens that it sees, so it takes back too much, and then writes it again:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> settings = {"confidence_threshold": 0.1, "remask_threshold": 0.5, "output_history": True}
    >>> output = model.generate(**prompt, strategy="t2m", return_dict_in_generate=True, **settings)
    >>> print(*output.drafts(tokenizer)[:4], sep="\n")
    1+1, 9+9, 1+1, 9+9, 1+2, 5+6
    _+_, _+_, _+_, 9+9, 1+2, 5+6
    1+1, 9+9, 1+1, 9+9, 1+_, 5+_
    _+_, _+_, 1+_, 9+9, 1+2, 5+6
    >>> output.num_remasked.tolist()
    [26]

    ```
    """

    confidence_threshold: float = 0.7
    rule: str = "low_prob"
    remask_threshold: float | None = None
    editing_threshold: float = 0.5
    max_position_remasks: int = 3
    remask_share: float = 0.25
    max_review_steps: int = 16
    _memory: "_Memory | None" = field(default=None, init=False, repr=False, compare=False)
    _leaves_blocks: bool = field(default=False, init=False, repr=False, compare=False)

    remasks = True
    sequential_order = "token_probability"
    needs = frozenset({"token_probability", "review"})

    def __post_init__(self):
        for name in ("confidence_threshold", "editing_threshold", "remask_share"):
            check_interval(name, getattr(self, name), 0, 1)
        check_choice("rule", self.rule, tuple(RULES))
        if self.remask_threshold is not None:
            check_interval("remask_threshold", self.remask_threshold, 0, 1)
        check_count("max_position_remasks", self.max_position_remasks)
        check_count("max_review_steps", self.max_review_steps)

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        # With block-causal attention a finished block is not looked at again, and each has its own review.
        self._leaves_blocks = settings is not None and settings.block_alignment is not None

    def select(self, step: DenoisingStep) -> Decision:
        certainty, written, review = step.score("token_probability"), step.given("written"), step.given("review")
        is_sure = step.at_positions(certainty > self.confidence_threshold, False)
        filled = is_sure | (step.best(certainty, 1) & ~is_sure.any(dim=-1, keepdim=True))
        memory = self._memory or _Memory.empty(step)
        has_written = written.any(dim=-1, keepdim=True)
        # As in the public code, counts start anew where nothing is written.
        counts = memory.counts * has_written
        edited, remasked = torch.zeros_like(filled), torch.zeros_like(filled)
        if self.rule == "t2t":
            edited = self._doubted(step, self.editing_threshold)
        else:
            remasked = self._remasked(step, memory.probability, counts)
        num_reviews = memory.num_reviews
        if self._leaves_blocks:
            num_reviews = num_reviews.masked_fill(step.block_step_index == 0, 0)
        num_reviews = num_reviews + (has_written[:, 0] & ~step.candidates.any(dim=-1))
        # Of a token that was just written, the probability before it stood there counts.
        now = torch.where(filled, step.at_positions(certainty, 0.0), review.kept_probability)
        before = torch.where(has_written, now, memory.probability)
        self._memory = _Memory(before, counts + remasked, num_reviews)
        tokens = torch.where(edited, review.tokens, step.at_positions(step.tokens, 0))
        return Decision(filled | edited, tokens, remasked, revisited=num_reviews < self.max_review_steps)

    def _doubted(self, step: DenoisingStep, threshold: float) -> torch.Tensor:
        """Return the written positions at which the model is sure enough of another token."""
        review = step.given("review")
        return step.given("written") & (review.tokens != step.sequences) & (review.token_probability > threshold)

    def _remasked(self, step: DenoisingStep, before: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Return the positions to remask, given the probability of each token before and how often it was remasked."""
        written, review = step.given("written"), step.given("review")
        threshold = RULES[self.rule] if self.remask_threshold is None else self.remask_threshold
        score = review.kept_probability
        if self.rule == "low_prob":
            is_due = written & (score < threshold)
        elif self.rule == "t2t_remask":
            is_due, score = self._doubted(step, threshold), 1 - review.token_probability
        else:
            score = score - before
            is_due = written & (-score > threshold)
        is_due = is_due & (counts < self.max_position_remasks)
        limits = (self.remask_share * written.sum(dim=-1, keepdim=True).double()).long().clamp(min=1)
        # The lowest score first; ties go to the earlier position.
        return is_due & (ranks(torch.where(is_due, -score.double(), float("-inf"))) < limits)


@dataclass(frozen=True)
class _Memory:
    """Probability of each token in the step before, how often each position was remasked, each row's review steps."""

    probability: torch.Tensor
    counts: torch.Tensor
    num_reviews: torch.Tensor

    @classmethod
    def empty(cls, step: DenoisingStep) -> "_Memory":
        """Return the memory before the first step; no token has lost probability."""
        shape, device = step.candidates.shape, step.candidates.device
        counts = torch.zeros(shape, dtype=torch.long, device=device)
        return cls(torch.zeros(shape, device=device), counts, torch.zeros_like(step.step_index))
