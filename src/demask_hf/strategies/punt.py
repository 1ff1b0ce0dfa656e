"""PUNT: positions whose predictions stay the same when the more confident ones are revealed, tested with probes."""

from dataclasses import dataclass

import torch

from ..functional.distributions import kl_divergence
from ..validation import check_choice, check_interval
from .base import UnmaskingStrategy, register_strategy
from .needs import Need
from .sequential import needs_of_order, position_scores
from .step import DenoisingStep


ORDERS = ("confidence", "entropy", "margin", "token_probability")


@register_strategy("punt")
@dataclass
class PuntStrategy(UnmaskingStrategy):
    r"""Unmask the positions whose predictions do not change when more confident ones are revealed, as probes test it.

    The `n` masked positions are ranked by confidence, from 0, and all are kept at first. There are `ceil(log2 n)`
    tests, one for each binary digit of a rank, the highest digit first. A test reveals the kept positions whose digit
    is 0, with the tokens that they would get, in one probe forward; of those whose digit is 1 it drops each with
    KL(prediction before || prediction now) above `kl_threshold`. What is left is unmasked, the surest position always
    (PUNT, arXiv 2510.21961). No code is public: ranks are not renumbered when positions are dropped. Probe forwards
    are reported as `num_probe_passes`; a test without positions costs none. Probes see no logits processors.

    Args:
        kl_threshold (`float`, *optional*, defaults to 0.01):
            Upper limit in nats, above 0. The paper tries 0.01 to 0.32.
        order (`str`, *optional*, defaults to `"confidence"`):
            Order of the ranks: "confidence", "entropy", "margin" or "token_probability" (of the drawn token).

    Example:

    Each pair of digits has a given sum. A digit changes its prediction when the surer one of its pair is revealed, and
    waits for the second step. Eight probe forwards found that out:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="punt", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer), sep="\n")
    1+_, _+9, 1+_, 9+9, _+2, _+6
    1+6, 3+9, 1+4, 9+9, 1+2, 5+6
    >>> output.num_probe_passes.tolist()
    [8]

    ```
    """

    kl_threshold: float = 0.01
    order: str = "confidence"

    @property
    def sequential_order(self) -> str:
        return self.order

    @property
    def needs(self) -> frozenset[Need]:
        return needs_of_order(self.order) | {"probabilities"}

    def __post_init__(self):
        check_interval("kl_threshold", self.kl_threshold, 0, open_low=True, infinite=True)
        check_choice("order", self.order, ORDERS)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        ranks = step.rank(position_scores(step, self.order))
        num_digits = [max(count - 1, 0).bit_length() for count in step.candidates.sum(dim=-1).tolist()]
        highest = torch.tensor(num_digits, device=ranks.device)[:, None] - 1
        kept = step.candidates
        for test in range(max(num_digits, default=0)):
            digit = highest - test
            is_tested = kept & (digit >= 0) & ((ranks >> digit.clamp(min=0)) & 1).bool()
            kept = kept & ~self._are_moved(step, kept & ~is_tested, is_tested)
        return kept

    def _are_moved(self, step: DenoisingStep, revealed: torch.Tensor, tested: torch.Tensor) -> torch.Tensor:
        """Return which tested positions depend on the revealed ones, shape `(batch, length)`; costs a probe a row."""
        rows = tested.any(dim=-1).nonzero().squeeze(-1)
        if not rows.numel():
            return tested
        sequences = torch.where(revealed, step.at_positions(step.tokens, 0), step.sequences)
        now = step.forward(sequences[rows], rows, tested[rows])
        before = step.given("probabilities")[tested[step.rows, step.columns]]
        step.ledger.num_probe_passes[rows] += 1
        return tested.masked_scatter(tested, kl_divergence(before, now) > self.kl_threshold)
