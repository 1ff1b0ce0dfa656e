"""The forward process of masked diffusion: which positions are masked, and when positions are unmasked."""

import torch


def random_mask(maskable: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Mask every row at its own ratio; the ratios are spread evenly over (0, 1).

    The ratios of a batch are stratified, one in each interval of width 1 / batch, so that every batch covers the
    whole range. Each row with a maskable position gets at least one masked position.

    Args:
        maskable (`torch.BoolTensor` of shape `(batch, length)`):
            Positions that may be masked.
        generator (`torch.Generator`, *optional*):
            Source of randomness, on the device of `maskable`.

    Returns:
        `torch.BoolTensor` of shape `(batch, length)`: a subset of `maskable`.
    """
    batch, device = maskable.shape[0], maskable.device
    strata = torch.randperm(batch, generator=generator, device=device)
    ratios = (strata + torch.rand(batch, generator=generator, device=device)) / batch
    noise = torch.rand(maskable.shape, generator=generator, device=device).masked_fill(~maskable, 2.0)
    is_first = noise == noise.min(dim=-1, keepdim=True).values
    return maskable & ((noise < ratios[:, None]) | is_first)


def left_padded_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the position of each column counted from the first real token of its row.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch, length)`):
            0 at left padding.

    Returns:
        `torch.LongTensor` of shape `(batch, length)`; 1 at padding, as in Dream's public code.
    """
    return (attention_mask.long().cumsum(dim=-1) - 1).masked_fill(attention_mask == 0, 1)


def steps_of_blocks(num_steps: int, num_blocks: int) -> list[int]:
    """Distribute denoising steps over blocks as evenly as possible; earlier blocks get the remainder.

    Args:
        num_steps (`int`):
            Total number of steps, at least `num_blocks`.
        num_blocks (`int`):
            Number of blocks.

    Returns:
        `list[int]` of length `num_blocks`, with sum `num_steps`.

    Example:

    ```python
    >>> steps_of_blocks(7, 3)
    [3, 2, 2]

    ```
    """
    each, rest = divmod(num_steps, num_blocks)
    return [each + (block < rest) for block in range(num_blocks)]


def block_attention(
    blocks: torch.Tensor, query_blocks: torch.Tensor, attention_mask: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Return the mask with which each query sees the keys of its own block and of earlier ones, but no padding.

    Args:
        blocks (`torch.LongTensor` of shape `(batch, keys)`):
            Block of each key.
        query_blocks (`torch.LongTensor` of shape `(batch, queries)`):
            Block of each query.
        attention_mask (`torch.Tensor` of shape `(batch, keys)`, *optional*):
            0 at padding.
        dtype (`torch.dtype`):
            Number format of the mask.

    Returns:
        `torch.Tensor` of shape `(batch, 1, queries, keys)`: 0 where a key is seen, else the lowest finite number.
    """
    attended = blocks[:, None] <= query_blocks[:, :, None]
    if attention_mask is not None:
        attended = attended & attention_mask.bool()[:, None]
    return additive_mask(attended, dtype)


def additive_mask(attended: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask that attention adds to its scores, of shape `(batch, 1, queries, keys)`.

    Args:
        attended (`torch.BoolTensor` of shape `(batch, queries, keys)`):
            Which keys each query sees.
        dtype (`torch.dtype`):
            Number format of the mask.
    """
    mask = torch.zeros(attended.shape, dtype=dtype, device=attended.device)
    return mask.masked_fill_(~attended, torch.finfo(dtype).min)[:, None]


def unmask_shares(num_steps: int, eps: float) -> torch.Tensor:
    """Return the share of the remaining masked positions that each step of Dream's schedule unmasks.

    With `t = linspace(1, eps, num_steps + 1)`, step `i` unmasks the share `1 - t[i + 1] / t[i]`, and the last step
    everything (Dream's public samplers).

    Args:
        num_steps (`int`):
            Number of denoising steps, at least 1.
        eps (`float`):
            Noise level at the end, in (0, 1).

    Returns:
        `torch.Tensor` of shape `(num_steps,)`, float32, in (0, 1].
    """
    times = torch.linspace(1, eps, num_steps + 1)
    shares = 1 - times[1:] / times[:-1]
    shares[-1] = 1.0
    return shares
