"""LocalLeap: confident positions, and less confident ones near them."""

from dataclasses import dataclass

import torch

from ..validation import check_count, check_interval
from .base import UnmaskingStrategy, register_strategy
from .step import DenoisingStep


@register_strategy("local_leap")
@dataclass
class LocalLeapStrategy(UnmaskingStrategy):
    r"""Unmask the most confident position, all confident ones, and the fairly confident ones near those.

    A masked position whose drawn token has at least the probability `confidence_threshold` is an anchor. Anchors are
    unmasked, and with them each position at most `radius` places from an anchor whose token has at least the
    probability `relaxed_threshold` (LocalLeap, arXiv 2510.07081).

    Args:
        confidence_threshold (`float`, *optional*, defaults to 0.9):
            Lowest probability of an anchor, in [0, 1].
        relaxed_threshold (`float`, *optional*, defaults to 0.75):
            Lowest probability near an anchor, in [0, `confidence_threshold`].
        radius (`int`, *optional*, defaults to 4):
            How far an anchor reaches, in places, at least 0; 0 is the rule of [`ThresholdStrategy`].

    Example:

    Each pair of digits has a given sum. Far less certain positions are unmasked near confident ones, and clash:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> settings = {"relaxed_threshold": 0.15, "return_dict_in_generate": True}
    >>> output = model.generate(**prompt, strategy="local_leap", **settings)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _+_, _+9, 1+1, 9+9, 1+2, _+_
    _+_, 3+9, 1+1, 9+9, 1+2, _+_
    _+1, 3+9, 1+1, 9+9, 1+2, _+_
    6+1, 3+9, 1+1, 9+9, 1+2, _+_
    6+1, 3+9, 1+1, 9+9, 1+2, _+6
    6+1, 3+9, 1+1, 9+9, 1+2, 5+6

    ```
    """

    confidence_threshold: float = 0.9
    relaxed_threshold: float = 0.75
    radius: int = 4

    sequential_order = "token_probability"
    needs = frozenset({"token_probability"})

    def __post_init__(self):
        check_interval("confidence_threshold", self.confidence_threshold, 0, 1)
        check_interval("relaxed_threshold", self.relaxed_threshold, 0, self.confidence_threshold)
        check_count("radius", self.radius, lowest=0)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        confidence = step.score("token_probability")
        is_anchor = step.at_positions(confidence >= self.confidence_threshold, False)
        is_fair = step.at_positions(confidence >= self.relaxed_threshold, False)
        reach = min(self.radius, is_anchor.shape[-1])
        # Each window of the anchors, itself in the middle.
        is_near = torch.nn.functional.max_pool1d(is_anchor[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0
        return is_anchor | (is_fair & is_near) | step.best(confidence, 1)
