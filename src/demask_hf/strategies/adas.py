"""ADAS: a walk that discounts positions which attend to uncertain ones taken before."""

from dataclasses import dataclass

import torch

from ..validation import check_choice, check_count, check_interval
from .base import UnmaskingStrategy, register_strategy
from .needs import LastLayers, Need
from .step import DenoisingStep


#: Each rule that ends the walk, with the `limit` that it has by default.
RULES = {"factor": 1.0, "entropy_bound": 0.1, "top_k": 2}


@register_strategy("adas")
@dataclass
class AdasStrategy(UnmaskingStrategy):
    r"""Unmask confident positions that hardly attend to uncertain ones of the same step, as many as a known rule does.

    The walk takes the position with the largest `c_i - discount * sum_s A_is (1 - c_s)`, again and again: `c` is the
    confidence, `s` are the positions taken before, and `A_is` is the attention of `i` to `s` in the last layer,
    averaged over heads (ADAS, arXiv 2606.10829, equation 3). It ends by the rule of a known method, along this order
    in place of that by confidence: "factor" (Fast-dLLM) while `(n + 1) * (1 - c_n) <= limit` at rank `n`,
    "entropy_bound" (EB-sampler) while the sum of the entropies less the largest one is at most the limit, and "top_k"
    after `limit` positions. At least one position is unmasked.

    No code is public. What attends in models with shifted logits is the position itself, as in DAPD, not the one that
    predicts it.

    Args:
        discount (`float`, *optional*, defaults to 40.0):
            Weight of attention, at least 0; the paper has one for all models and tasks. 0 walks by confidence.
        rule (`str`, *optional*, defaults to `"factor"`):
            What ends the walk: "factor", "entropy_bound" or "top_k".
        limit (`float`, *optional*):
            Limit of that rule, at least 0; for "top_k" a whole number, at least 1. By default 1 for "factor", 0.1
            (nats) for "entropy_bound", 2 for "top_k".

    Example:

    Each pair of digits has a given sum. Six positions a step; of the uncertain ones it
    takes one of most pairs at a time:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> settings = {"rule": "top_k", "limit": 6, "return_dict_in_generate": True}
    >>> output = model.generate(**prompt, strategy="adas", **settings)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _+_, _+_, _+_, ____________
    _+_, _+_, _+_, _+_, _+_, _+__
    _+_, _+_, _+_, _+_, _+_, _+__
    _+_, _+_, _+1, 9+9, _+2, _+6
    1+1, _+9, 4+1, 9+9, 1+2, 5+6
    1+1, 3+9, 4+1, 9+9, 1+2, 5+6

    ```
    """

    discount: float = 40.0
    rule: str = "factor"
    limit: float | None = None

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"entropy", LastLayers(count=1)})

    def __post_init__(self):
        check_interval("discount", self.discount, 0, infinite=True)
        check_choice("rule", self.rule, tuple(RULES))
        if self.limit is not None and self.rule == "top_k":
            check_count("limit", self.limit)
        elif self.limit is not None:
            check_interval("limit", self.limit, 0, infinite=True)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        confidence = step.at_positions(step.score("confidence").double(), 0.0)
        uncertainty = step.at_positions(step.score("entropy").double(), 0.0)
        attentions = step.given("attentions")
        selected, discounts = torch.zeros_like(step.candidates), torch.zeros_like(confidence)
        spent, largest = torch.zeros_like(confidence[:, :1]), torch.zeros_like(confidence[:, :1])
        is_walking = step.candidates.any(dim=-1, keepdim=True)
        for rank in range(step.index.width):
            scores = (confidence - self.discount * discounts).masked_fill(~step.candidates | selected, float("-inf"))
            taken = scores == scores.amax(dim=-1, keepdim=True)
            # Ties go to the earlier position.
            taken &= (taken.cumsum(dim=-1) == 1) & step.candidates & ~selected
            own, doubt = ((values * taken).sum(dim=-1, keepdim=True) for values in (confidence, uncertainty))
            spent, largest = spent + doubt, torch.maximum(largest, doubt)
            is_walking = is_walking & (self._fits(rank, own, spent - largest) if rank else True)
            if not is_walking.any():
                break
            selected = selected | (taken & is_walking)
            discounts = discounts + (attentions * taken[:, None, :]).sum(dim=-1).double() * (1 - own)
        return selected

    def _fits(self, rank: int, confidence: torch.Tensor, spent: torch.Tensor) -> torch.Tensor | bool:
        """Return in which rows the rule allows another position, after `rank` of them."""
        limit = RULES[self.rule] if self.limit is None else self.limit
        if self.rule == "top_k":
            return rank < limit
        return (rank + 2) * (1 - confidence) <= limit if self.rule == "factor" else spent <= limit
