"""What a strategy may need of a step, which the loop computes for it."""

from dataclasses import dataclass


#: What a strategy may need of a step, by name. "confidence" is always there.
NEEDS = (
    "confidence",
    "entropy",
    "margin",
    "token_probability",
    "probabilities",
    "hidden_states",
    "context_confidence",
    "review",
    "canvas",
)


@dataclass(frozen=True)
class LastLayers:
    """The need for attention weights, averaged over heads and over the last layers of the model.

    Args:
        count (`int`, *optional*):
            Number of layers, at least 1.
        share (`float`, *optional*):
            Share of the layers, counted from the last and rounded up, in (0, 1]; instead of `count`.
    """

    count: int | None = None
    share: float | None = None

    def of(self, num_layers: int) -> int:
        """Return how many of a model's layers are averaged."""
        if self.share is None:
            return num_layers if self.count is None else self.count
        # As in the public code of DAPD, so that products such as 0.3 * 10 are rounded in the same way.
        return max(1, num_layers - int(num_layers * (1 - self.share)))


@dataclass(frozen=True)
class AnswerGaps:
    """The need for the gap between the two largest logits at some positions, whether they are masked or not.

    Args:
        first_column (`int`):
            First column of the sequences; at least 0.
        count (`int`):
            Number of columns, fewer where the sequences end before; at least 1.
    """

    first_column: int
    count: int


@dataclass(frozen=True)
class Shadows:
    """The need for a review of the written positions of a row's block by shadow tokens, which do not see them.

    Only `step.review` of these positions is filled. A forward computes one more position for each of the block.

    Args:
        is_aligned (`bool`, *optional*, defaults to `True`):
            With `False`, shadows stand where public code has them for models with shifted logits, and see the token.
    """

    is_aligned: bool = True


Need = str | LastLayers | AnswerGaps | Shadows
