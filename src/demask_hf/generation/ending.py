"""Positions that would end the answer wait for the others: `eos_penalty`."""

from dataclasses import dataclass

import torch

from ..strategies import DecodingSettings


@dataclass(frozen=True)
class EosPenalty:
    """A smaller chance to be chosen for positions that would get an end-of-sequence token.

    Args:
        penalty (`float`):
            Subtracted from the logits of these tokens in what the strategy reads; above 0, and infinite to exclude
            them.
        token_ids (`tuple[int, ...]`):
            The end-of-sequence tokens.
        mask_token_id (`int`):
            Id of the mask token, which is never written.
    """

    penalty: float
    token_ids: tuple[int, ...]
    mask_token_id: int

    @classmethod
    def of(cls, settings: DecodingSettings, mask_token_id: int) -> "EosPenalty | None":
        """Return the penalty of these settings; `None` if they have none."""
        if not settings.eos_penalty:
            return None
        return cls(settings.eos_penalty, tuple(settings.ending_token_ids), mask_token_id)

    def lowered(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits after the subtraction, shape `(num_candidates, vocabulary)`."""
        lowered = logits.clone()
        for token in self.token_ids:
            lowered[:, token] -= self.penalty
        return lowered

    def waits(self, lowered: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the candidates whose token ends the answer although another is now more likely.

        Args:
            lowered (`torch.Tensor` of shape `(num_candidates, vocabulary)`):
                Logits after the subtraction.
            tokens (`torch.LongTensor` of shape `(num_candidates,)`):
                Token that each candidate would get.

        Returns:
            `torch.BoolTensor` of shape `(num_candidates,)`.
        """
        # One id at a time: a tensor of ids would have to be copied to the device in every step.
        others, is_end = lowered.clone(), torch.zeros_like(tokens, dtype=torch.bool)
        others[:, self.mask_token_id] = float("-inf")
        for token in self.token_ids:
            others[:, token] = float("-inf")
            is_end |= tokens == token
        of_ends = torch.stack([lowered[:, token] for token in self.token_ids]).amax(dim=0)
        return is_end & (others.amax(dim=-1) > of_ends)
