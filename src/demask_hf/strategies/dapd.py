"""DAPD: an independent set of the attention between masked positions, starting with well connected ones."""

from dataclasses import dataclass, field

import torch

from ..functional.dependency import low_dependency_subset
from ..validation import check_interval
from .base import UnmaskingStrategy, register_strategy
from .needs import LastLayers, Need
from .step import DenoisingStep


# Share of the masks that must be unmasked before confident positions are unmasked regardless of attention.
_LATE_PROGRESS = 0.5
_SMALLEST_MAXIMUM = 1e-8


@register_strategy("dapd")
@dataclass
class DapdStrategy(UnmaskingStrategy):
    r"""Walk the positions by attention times confidence and unmask each that hardly attends to those taken so far.

    With `A` the attention averaged over the last layers, `S = (A + A^T) / 2` between the candidates and 0 on the
    diagonal, `d_i = sum_j S_ij` and `W_ij = S_ij / max_k S_ik`, positions are walked in descending order of `d_i`
    times confidence, and position `i` is taken iff `W_ij <= bound` for every `j` taken before (DAPD, arXiv 2603.12996,
    as its public code has it; `W` is not symmetric, the row is that of the position to be taken). The bound rises with
    progress, the share of the row's initial masks that are unmasked, over all blocks:

        bound = initial_bound + (final_bound - initial_bound) * progress

    Masks after an end-of-sequence token count as remaining. From a progress of 1/2 on, all positions with at least
    `confidence_threshold` are unmasked as well, which is the "staged" form of the public code.

    Args:
        initial_bound (`float`, *optional*, defaults to 0.01):
            Bound on `W` when nothing is unmasked, in [0, 1].
        final_bound (`float`, *optional*, defaults to 0.15):
            Bound on `W` towards the end, in [0, 1].
        confidence_threshold (`float`, *optional*, defaults to 0.9):
            Lowest confidence of positions that the second half unmasks in addition to the independent set, in [0, 1];
            `None` unmasks the independent set only.
        layer_share (`float`, *optional*, defaults to 0.3):
            Share of the layers, counted from the last and rounded up, that the attention is averaged over, in (0, 1].

    Example:

    Each pair of digits has a given sum. Positions that hardly attend to each other are unmasked together:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="dapd", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _______, ______9______+_
    1___9__, ____9_9____, _+_
    1_6_9__, _+_, 9_9__+_, _+_
    1+6_9_3, _+_, 9+9__+2, _+_
    1+6, 9+3, _+_, 9+9, 1+2, _+6
    1+6, 9+3, _+4, 9+9, 1+2, 5+6
    1+6, 9+3, 1+4, 9+9, 1+2, 5+6

    ```
    """

    initial_bound: float = 0.01
    final_bound: float = 0.15
    confidence_threshold: float | None = 0.9
    layer_share: float = 0.3
    _num_masked_at_first: torch.Tensor | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({LastLayers(share=self.layer_share)})

    def __post_init__(self):
        check_interval("initial_bound", self.initial_bound, 0, 1)
        check_interval("final_bound", self.final_bound, 0, 1)
        if self.confidence_threshold is not None:
            check_interval("confidence_threshold", self.confidence_threshold, 0, 1)
        check_interval("layer_share", self.layer_share, 0, 1, open_low=True)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        progress = self._progress(step)[:, None]
        bound = self.initial_bound + (self.final_bound - self.initial_bound) * progress
        certainty = step.at_positions(step.score("confidence"), 0.0)
        is_pair = step.candidates[:, :, None] & step.candidates[:, None, :]
        attentions = step.given("attentions")
        weights = (attentions + attentions.transpose(1, 2)) / 2 * is_pair
        weights.diagonal(dim1=1, dim2=2).zero_()
        scores = weights.sum(dim=-1, dtype=torch.float64).float() * certainty
        weights = weights / weights.amax(dim=-1, keepdim=True).clamp(min=_SMALLEST_MAXIMUM)
        # Indexed [earlier, later], as the walk requires: whether the later one attends too much to the earlier one.
        conflicts = (weights > bound[:, :, None]).transpose(1, 2)
        selected = low_dependency_subset(conflicts.float(), scores, step.candidates, 0.0, "max")
        if self.confidence_threshold is not None:
            is_late = progress >= _LATE_PROGRESS
            selected = selected | (step.candidates & is_late & (certainty >= self.confidence_threshold))
        return selected

    def _progress(self, step: DenoisingStep) -> torch.Tensor:
        """Return the share of each row's initial masks that are unmasked, shape `(batch,)`, in [0, 1)."""
        num_masked = ((step.sequences == step.mask_token_id) & step.is_real).sum(dim=-1)
        if self._num_masked_at_first is None:
            self._num_masked_at_first = num_masked
        return 1 - num_masked / self._num_masked_at_first.clamp(min=1)
