"""KLASS: positions that are confident and whose predictions have stopped changing."""

from dataclasses import dataclass, field

import torch

from ..functional.distributions import kl_divergence
from ..validation import check_count, check_interval
from .base import UnmaskingStrategy, register_strategy
from .step import DenoisingStep


@register_strategy("klass")
@dataclass
class KlassStrategy(UnmaskingStrategy):
    r"""Unmask every position that is confident and stable, else the most confident one.

    A position is stable when the last `history_length` values of KL(prediction now || prediction before) all lie
    below `kl_threshold`; with a history of 2 nothing can be stable before the third forward pass (KLASS). A position
    has a history from the first step in which it is a candidate.

    Args:
        confidence_threshold (`float`, *optional*, defaults to 0.9):
            Lowest probability of the most likely token, in [0, 1].
        kl_threshold (`float`, *optional*, defaults to 0.001):
            Exclusive upper limit in nats, above 0.
        history_length (`int`, *optional*, defaults to 2):
            Number of values that must lie below it, at least 1.

    Example:

    Each pair of digits has a given sum. Nothing is stable before the third step:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="klass", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer)[:5], sep="\n")
    _+______________________
    _+_, ____________________
    _+_, _+_, _+_, 9+9, _+_, _+_
    _+_, _+_, _+_, 9+9, _+2, _+_
    _+_, _+_, _+_, 9+9, 1+2, _+_

    ```
    """

    confidence_threshold: float = 0.9
    kl_threshold: float = 0.001
    history_length: int = 2
    _memory: "_Memory | None" = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self):
        check_interval("confidence_threshold", self.confidence_threshold, 0, 1)
        check_interval("kl_threshold", self.kl_threshold, 0, open_low=True, infinite=True)
        check_count("history_length", self.history_length)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        certainty = step.score("confidence")
        is_stable = (self._remembered(step) < self.kl_threshold).all(dim=0)[step.rows, step.columns]
        is_ready = step.at_positions(is_stable & (certainty >= self.confidence_threshold), False)
        return is_ready | (step.best(certainty, 1) & ~is_ready.any(dim=-1, keepdim=True))

    def _remembered(self, step: DenoisingStep) -> torch.Tensor:
        """Return the history with the newest KL of each position; infinite where there is no earlier prediction."""
        probabilities, before = step.given("probabilities"), self._memory
        kl = torch.full((step.rows.numel(),), float("inf"), dtype=torch.float64, device=step.rows.device)
        if before is None:
            history = torch.full((self.history_length, *step.candidates.shape), float("inf")).to(kl)
        else:
            history, index = before.history, before.index[step.rows, step.columns]
            # Computed for all positions and discarded where there is no earlier prediction: selecting them would wait
            # for the device.
            moved = kl_divergence(probabilities, before.probabilities[index.clamp(min=0)])
            kl = torch.where(index >= 0, moved, kl)
        history = torch.cat([history[1:], step.at_positions(kl, float("inf"))[None]])
        places = step.at_positions(torch.arange(kl.numel(), device=kl.device), -1)
        self._memory = _Memory(probabilities, places, history)
        return history


@dataclass(frozen=True)
class _Memory:
    """The predictions of the last step, the index of each position in them (-1 if none), and the last values of KL."""

    probabilities: torch.Tensor
    index: torch.Tensor
    history: torch.Tensor
