"""Mean field: certainty of each position, lowered by that of the positions that are predicted alike."""

from dataclasses import dataclass
from math import log

import torch

from ..functional.distributions import entropy
from ..validation import check_count, check_interval
from .base import UnmaskingStrategy, register_strategy
from .step import DenoisingStep


@register_strategy("mean_field")
@dataclass
class MeanFieldStrategy(UnmaskingStrategy):
    r"""Unmask the positions whose certainty outweighs that of all positions that are predicted alike.

    With `c_i = log p_1 - log p_2` of the two most likely tokens and `D_ij = 1 - JSD(p_i, p_j) / log 2`, divided by the
    largest one of the row's candidates and 0 for `i = j`, the intensity of a position is `q_i = sigmoid(c_i - sum_j
    D_ij q_j)`, iterated from `q_i = sigmoid(c_i)` at all positions together (mean-field parallel decoding, arXiv
    2606.15805, Algorithm 1). Positions with at least `intensity_threshold` are unmasked, and the one with the highest
    intensity in any case; the latter is not in the text.

    The authors' code could not be reached: the rule is that of two restatements of the paper's text. It reads whole
    distributions, and takes time that grows with the square of the candidates times the vocabulary.

    Args:
        intensity_threshold (`float`, *optional*, defaults to 0.9):
            Lowest intensity, in [0, 1].
        num_iterations (`int`, *optional*, defaults to 2):
            Iterations, at least 1.

    Example:

    Each pair of digits has a given sum. Uncertain digits go one at a time, the first six steps:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="mean_field", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer)[:6], sep="\n")
    _+_, _+_, _+_, 9+9, _+_, _+_
    _+_, _+_, _+_, 9+9, _+2, _+_
    _+_, _+_, _+_, 9+9, 1+2, _+_
    _+_, _+_, _+1, 9+9, 1+2, _+_
    _+_, _+_, 4+1, 9+9, 1+2, _+_
    _+1, _+_, 4+1, 9+9, 1+2, _+_

    ```
    """

    intensity_threshold: float = 0.9
    num_iterations: int = 2

    needs = frozenset({"probabilities"})

    def __post_init__(self):
        check_interval("intensity_threshold", self.intensity_threshold, 0, 1)
        check_count("num_iterations", self.num_iterations)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        probabilities = step.given("probabilities")
        highest = probabilities.topk(2, dim=-1).values.double().log()
        margins = step.index.padded(highest[:, 0] - highest[:, 1])
        alike = self._alike(step, probabilities)
        intensity = margins.sigmoid()
        for _ in range(self.num_iterations):
            intensity = (margins - (alike @ intensity[:, :, None]).squeeze(-1)).sigmoid()
        found = step.index.flat(intensity)
        return step.at_positions(found >= self.intensity_threshold, False) | step.best(found, 1)

    def _alike(self, step: DenoisingStep, probabilities: torch.Tensor) -> torch.Tensor:
        """Return how alike the predictions of a row are, float64 in [0, 1], `(active rows, positions, positions)`."""
        index = step.index
        is_position = index.padded(torch.ones_like(index.ranks, dtype=torch.bool))
        padded = index.padded(probabilities)
        entropies = entropy(padded)
        # One position against all others at a time, so that no more than the distributions are held twice.
        columns = [
            entropy((padded + padded[:, each : each + 1]) / 2) - (entropies + entropies[:, each : each + 1]) / 2
            for each in range(padded.shape[1])
        ]
        alike = (1 - torch.stack(columns, dim=-1).double() / log(2)).clamp(0, 1)
        alike = alike * (is_position[:, :, None] & is_position[:, None, :])
        alike.diagonal(dim1=1, dim2=2).zero_()
        largest = alike.amax(dim=(1, 2), keepdim=True)
        return alike / torch.where(largest > 0, largest, 1.0)
