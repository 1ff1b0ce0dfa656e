"""The Frechet rule: as many positions as keep their tokens together the most likely ones."""

from dataclasses import dataclass

import torch

from ..validation import check_interval
from .base import UnmaskingStrategy, register_strategy
from .step import DenoisingStep


@register_strategy("frechet")
@dataclass
class FrechetStrategy(UnmaskingStrategy):
    r"""Unmask the most confident positions, as many as are certain to be the most likely combination of tokens.

    Sorted by descending confidence `c_1 >= c_2 >= ...`, the largest `n` is taken for which
    `c_1 + ... + c_n - (n - 1) - (1 - c_n) > frechet_margin`, and at least one (arXiv 2606.02955, Fast-dLLM++). The sum
    less `n - 1` is Frechet's lower bound of the probability that all `n` tokens hold at once, whatever their
    dependence. Every other combination differs at a position, so its probability is at most `1 - c_n`. With a margin
    of at least 0 the tokens of one step are therefore the mode of their joint distribution: a claim on the most likely
    answer, not on draws. At temperatures above 0 confidence is that of the drawn token.

    Args:
        frechet_margin (`float`, *optional*, defaults to 0.02):
            Exclusive lower limit, in [0, 1]. Public scripts use 0.02, their description 0.25; at 1 one position is
            unmasked per step.

    Example:

    Each pair of digits has a given sum. Only positions that are all but certain are unmasked together:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="frechet", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer)[:4], sep="\n")
    _+_, _+_, _+_, 9+9, _+_, _+_
    _+_, _+_, _+_, 9+9, _+2, _+_
    _+_, _+_, _+_, 9+9, 1+2, _+_
    _+_, _+_, 1+_, 9+9, 1+2, _+_

    ```
    """

    frechet_margin: float = 0.02

    sequential_order = "token_probability"
    needs = frozenset({"token_probability"})

    def __post_init__(self):
        check_interval("frechet_margin", self.frechet_margin, 0, 1)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        confidence = step.at_positions(step.score("token_probability").double(), 0.0)
        ranks = step.rank(step.score("token_probability"))
        missing = torch.zeros_like(confidence).scatter(-1, ranks, 1 - confidence)
        # 1 minus what is missing of all ranks up to one's own, and again of one's own. It never rises with the rank.
        bound = 1 - missing.cumsum(dim=-1) - missing
        return step.candidates & ((bound.gather(-1, ranks) > self.frechet_margin) | (ranks == 0))
