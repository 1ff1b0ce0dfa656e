"""What a strategy sees of a model with uniform noise: the canvas, which it may renew itself."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..functional.sampling import inverse_transform, uniform_noise


# Streams of the noise of a row: strategies use 0 and above.
_FIRST_NOISE, _NEXT_NOISE = -1, -2


@dataclass
class Canvas:
    """The current block as the model sees it: written tokens, and random ones at positions that are not.

    All rows are on the same block. Rows that have finished it, or ended, see and predict what they did before.

    Args:
        tokens (`torch.LongTensor` of shape `(batch, canvas_length)`):
            What the model sees in this step; a strategy that needs the canvas sets what it sees in the next one.
        vocab_size (`int`):
            Number of token ids.
        dtype (`torch.dtype`):
            Precision in which logits condition the next step.
        seeds (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Seeds of the rows. `None` draws from torch's own generator, for all rows at once, as transformers does.
        steps (`torch.LongTensor` of shape `(batch,)`):
            Steps of each row so far.
        positions (`torch.LongTensor` of shape `(batch, canvas_length)`):
            Position of each column in its row.
        start (`int`):
            First column of the canvas.
        look (`Callable`):
            Runs the model on `tokens`, conditioned on `conditioning`, and returns the logits.
        is_new (`bool`):
            Whether this is the first step of the canvas.
        logits (`torch.Tensor` of shape `(batch, canvas_length, vocabulary)`, *optional*):
            What the model predicts in this step, float32.
        conditioning (`torch.Tensor` of shape `(batch, canvas_length, vocabulary)`, *optional*):
            Logits of the step before, which the model reads together with the tokens; `None` in a first step.
    """

    tokens: torch.Tensor
    vocab_size: int
    dtype: torch.dtype
    seeds: torch.Tensor | None
    steps: torch.Tensor
    positions: torch.Tensor
    start: int
    look: Callable[[], torch.Tensor]
    is_new: bool = True
    logits: torch.Tensor | None = None
    conditioning: torch.Tensor | None = field(default=None, init=False)

    @property
    def columns(self) -> slice:
        """Where the canvas lies in the sequences."""
        return slice(self.start, self.start + self.tokens.shape[1])

    def noise(self, is_first: bool = False) -> torch.Tensor:
        """Return uniformly random tokens, shape `(batch, canvas_length)`; others for a canvas's first step."""
        if self.seeds is None:
            return torch.randint(low=0, high=self.vocab_size, size=self.tokens.shape, device=self.tokens.device)
        numbers = self._numbers(_FIRST_NOISE if is_first else _NEXT_NOISE) * self.vocab_size
        return numbers.long().clamp(max=self.vocab_size - 1)

    def drawn(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Draw a token at every position.

        Args:
            probabilities (`torch.Tensor` of shape `(batch, canvas_length, vocabulary)`):
                Distributions.

        Returns:
            `torch.LongTensor` of shape `(batch, canvas_length)`.
        """
        flat = probabilities.view(-1, self.vocab_size)
        if self.seeds is None:
            return torch.multinomial(flat, num_samples=1).view(self.tokens.shape)
        return inverse_transform(flat.double(), self._numbers(0).flatten()).view(self.tokens.shape)

    def condition(self, logits: torch.Tensor) -> None:
        """Let the model read these logits in the next step, shape `(batch, canvas_length, vocabulary)`."""
        self.conditioning = logits.to(self.dtype)

    def _numbers(self, stream: int) -> torch.Tensor:
        seeds, steps = (
            each[:, None].expand_as(self.positions) for each in (self.seeds, self.steps) if each is not None
        )
        return uniform_noise(seeds, steps, self.positions, stream)
