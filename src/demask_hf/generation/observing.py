"""What a strategy may read of positions that are no candidates: they are predicted in the same forward."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..functional.distributions import confidence
from ..functional.sampling import Sampling
from ..strategies.needs import AnswerGaps, Need
from .state import DecodingState


@dataclass(frozen=True)
class OtherPositions:
    """Positions to predict besides the candidates, each of shape `(batch, length)`, or `None` where none are needed.

    Args:
        visible (`torch.BoolTensor`, *optional*):
            Positions that hold a token of prompt or answer, for "context_confidence".
        region (`torch.BoolTensor`, *optional*):
            Positions whose gaps of logits are needed, see [`AnswerGaps`].
    """

    visible: torch.Tensor | None
    region: torch.Tensor | None

    @classmethod
    def of(cls, needs: Iterable[Need], state: DecodingState, mask_token_id: int) -> "OtherPositions | None":
        """Return the positions that these needs ask for, or `None` if they ask for the candidates only.

        Args:
            needs (`Iterable`):
                What the strategy reads of a step.
            state ([`DecodingState`]):
                The state before the step.
            mask_token_id (`int`):
                Id of the mask token.
        """
        visible = region = None
        for need in needs:
            if need == "context_confidence":
                visible = state.sequences != mask_token_id
                if state.attention_mask is not None:
                    visible &= state.attention_mask.bool()
            elif isinstance(need, AnswerGaps):
                region = torch.zeros_like(state.sequences, dtype=torch.bool)
                region[:, need.first_column : need.first_column + need.count] = True
        return None if visible is None and region is None else cls(visible, region)

    @property
    def asked(self) -> torch.Tensor:
        """All of these positions, shape `(batch, length)`."""
        if self.visible is None or self.region is None:
            return self.visible if self.region is None else self.region  # type: ignore[return-value]
        return self.visible | self.region

    def observed(
        self, logits: torch.Tensor, at: tuple[torch.Tensor, torch.Tensor], scored: Sampling
    ) -> dict[str, torch.Tensor]:
        """Return what a step holds of these positions, see [`DenoisingStep`].

        Args:
            logits (`torch.Tensor` of shape `(num_places, vocabulary)`):
                Logits of these positions, and of others.
            at (`tuple` of two `torch.LongTensor` of shape `(num_places,)`):
                Row and column of each.
            scored ([`Sampling`]):
                Temperature and filters of what the strategy reads.
        """
        found = {}
        if self.visible is not None:
            certainty = confidence(scored.probabilities(logits[self.visible[at]]))
            found["context_confidence"] = _placed(certainty, at, self.visible)
        if self.region is not None:
            largest = logits[self.region[at]].topk(2, dim=-1).values
            found["logit_gaps"] = _placed(largest[:, 0] - largest[:, 1], at, self.region)
        return found


def observed_attention(
    attentions: torch.Tensor | None, active: torch.Tensor, candidates: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return what a step holds of the attention of some rows and their first columns, 0 elsewhere; nothing of `None`.

    Args:
        attentions (`torch.Tensor` of shape `(active, width, width)`, *optional*):
            Attention `[query, key]`.
        active (`torch.LongTensor` of shape `(active,)`):
            The rows.
        candidates (`torch.BoolTensor` of shape `(batch, length)`):
            All rows and columns.
    """
    if attentions is None:
        return {}
    (batch, length), width = candidates.shape, attentions.shape[-1]
    whole = attentions.new_zeros(batch, length, length)
    whole[active, :width, :width] = attentions
    return {"attentions": whole}


def _placed(values: torch.Tensor, at: tuple[torch.Tensor, torch.Tensor], asked: torch.Tensor) -> torch.Tensor:
    """Return values at those of these places that were asked for, and 0 elsewhere, shape `(batch, length)`."""
    placed, is_asked = values.new_zeros(asked.shape), asked[at]
    placed[at[0][is_asked], at[1][is_asked]] = values
    return placed
