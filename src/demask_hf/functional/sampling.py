"""From logits to drawn tokens: filters, and noise that depends on seed, step and position only."""

from dataclasses import dataclass

import torch


# Multipliers and shifts of the splitmix64 generator, written as signed 64-bit integers.
_INCREMENT = -7046029254386353131
_MULTIPLIERS = (-4658895280553007687, -7723592293110705685)
_NUM_BITS = 52


def _shift_right(value: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift 64-bit integers right, filling with zeros (torch fills with the sign)."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: torch.Tensor) -> torch.Tensor:
    """Scramble 64-bit integers: the finalizer of splitmix64."""
    value = (value ^ _shift_right(value, 30)) * _MULTIPLIERS[0]
    value = (value ^ _shift_right(value, 27)) * _MULTIPLIERS[1]
    return value ^ _shift_right(value, 31)


def uniform_noise(seeds: torch.Tensor, steps: torch.Tensor, positions: torch.Tensor, stream: int = 0) -> torch.Tensor:
    """Return one uniform number per element, a pure function of its arguments.

    The numbers are hashes (splitmix64), so they do not depend on the device, on the other rows of a batch or on
    earlier use of a generator.

    Args:
        seeds (`torch.LongTensor`):
            Seed of each element's row.
        steps (`torch.LongTensor`):
            Denoising step of each element's row, same shape.
        positions (`torch.LongTensor`):
            Position of each element, counted from the first real token of its row, same shape.
        stream (`int`, *optional*, defaults to 0):
            Number of the independent stream: 0 draws tokens, others are for strategies.

    Returns:
        `torch.Tensor` of the same shape, float64, in (0, 1).
    """
    state = _mix(seeds + _INCREMENT)
    for value in (steps, positions, torch.full_like(positions, stream)):
        state = _mix(state + _INCREMENT * (value + 1))
    return (_shift_right(state, 64 - _NUM_BITS).double() + 0.5) / (1 << _NUM_BITS)


def filter_logits(
    logits: torch.Tensor, temperature: float = 0.0, top_p: float | None = None, top_k: int | None = None
) -> torch.Tensor:
    """Apply temperature, then top-p, then top-k, in the order of Dream's public sampler.

    Args:
        logits (`torch.Tensor` of shape `(num_candidates, vocabulary)`):
            Scores before any filter.
        temperature (`float`, *optional*, defaults to 0.0):
            Divides the logits when above 0; 0 leaves them as they are.
        top_p (`float`, *optional*):
            Keep the most likely tokens until their mass exceeds `top_p`, in (0, 1].
        top_k (`int`, *optional*):
            Keep the `top_k` most likely tokens.

    Returns:
        `torch.Tensor` of shape `(num_candidates, vocabulary)`, with removed tokens set to the lowest finite value.
    """
    lowest = torch.finfo(logits.dtype).min
    if temperature not in (0, 1):
        logits = logits / temperature
    if top_p is not None and top_p < 1:
        ordered, indices = logits.sort(dim=-1, descending=True)
        mass_before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        mass_before[..., 0] = 0.0
        is_removed = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, indices, mass_before > top_p)
        logits = logits.masked_fill(is_removed, lowest)
    if top_k is not None and top_k < logits.shape[-1]:
        kth_best = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth_best, lowest)
    return logits


def draw_tokens(
    logits: torch.Tensor, probabilities: torch.Tensor, mask_token_id: int, noise: torch.Tensor | None
) -> torch.Tensor:
    """Choose a token per candidate, never the mask token.

    Args:
        logits (`torch.Tensor` of shape `(num_candidates, vocabulary)`):
            Unfiltered logits, used if only the mask token survives the filters.
        probabilities (`torch.Tensor` of shape `(num_candidates, vocabulary)`):
            Filtered distributions.
        mask_token_id (`int`):
            Id of the token that is never written.
        noise (`torch.Tensor` of shape `(num_candidates,)`, *optional*):
            Uniform numbers in (0, 1) for inverse transform sampling; `None` takes the most likely token.

    Returns:
        `torch.LongTensor` of shape `(num_candidates,)`.
    """
    # Restored afterwards: a copy without the mask token would be as large as all other tensors together.
    of_mask = logits[:, mask_token_id].clone()
    logits[:, mask_token_id] = float("-inf")
    # The same as `argmax`, in half the time on a CPU.
    fallback = logits.max(dim=-1).indices
    logits[:, mask_token_id] = of_mask
    if noise is None:
        return fallback
    allowed = probabilities.to(torch.float64, copy=True)
    allowed[:, mask_token_id] = 0.0
    return torch.where((allowed > 0).any(dim=-1), inverse_transform(allowed, noise), fallback)


def inverse_transform(weights: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Draw one token per row: the first whose cumulative weight exceeds the noise, never one of weight 0.

    Args:
        weights (`torch.Tensor` of shape `(draws, vocabulary)`):
            Weights of the tokens, float64, not necessarily normalised; a row needs one above 0.
        noise (`torch.Tensor` of shape `(draws,)`):
            Uniform numbers in [0, 1).

    Returns:
        `torch.LongTensor` of shape `(draws,)`.
    """
    cumulative = weights.cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, noise[:, None] * cumulative[:, -1:], right=True).squeeze(-1)
    # Rounding of the total must not select a token of weight 0 after the last possible one.
    last_possible = weights.shape[-1] - 1 - (weights.flip(-1) > 0).int().argmax(dim=-1)
    return torch.minimum(drawn, last_possible)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn from logits.

    Args:
        temperature (`float`, *optional*, defaults to 1.0):
            Divides the logits when above 0; at 0 the most likely token is taken.
        top_p (`float`, *optional*):
            Keep the most likely tokens until their mass exceeds it, in (0, 1].
        top_k (`int`, *optional*):
            Keep this many most likely tokens.
    """

    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the distributions are those of the logits, neither tempered nor filtered."""
        return self.temperature in (0, 1) and self.top_k is None and (self.top_p is None or self.top_p >= 1)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the distributions after temperature and filters, the mask token included.

        Args:
            logits (`torch.Tensor` of shape `(num_candidates, vocabulary)`):
                Scores before any filter.

        Returns:
            `torch.Tensor` of shape `(num_candidates, vocabulary)`; rows sum to 1.
        """
        return filter_logits(logits, self.temperature, self.top_p, self.top_k).softmax(dim=-1)

    def drawn(self, logits: torch.Tensor, mask_token_id: int) -> torch.Tensor:
        """Return the distributions that [`draw_tokens`] draws from: filtered, and without the mask token.

        Args:
            logits (`torch.Tensor` of shape `(num_candidates, vocabulary)`):
                Scores before any filter.
            mask_token_id (`int`):
                Id of the token that is never written.

        Returns:
            `torch.Tensor` of shape `(num_candidates, vocabulary)`, float32; rows sum to 1.
        """
        mask_index = torch.tensor([mask_token_id], device=logits.device)
        allowed = self.probabilities(logits).double().index_fill(-1, mask_index, 0.0)
        total = allowed.sum(dim=-1, keepdim=True)
        fallback = logits.index_fill(-1, mask_index, float("-inf")).argmax(dim=-1)
        only = torch.nn.functional.one_hot(fallback, logits.shape[-1]).double()
        return torch.where(total > 0, allowed / total.clamp(min=1e-300), only).float()
