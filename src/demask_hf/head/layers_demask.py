"""Layers of the dependency head: what mixes the masked positions, and what the distance of a pair adds.

This file, too, imports only torch and transformers, because it stands in every Hub repository of a head.
"""

import math

import torch
from torch import nn

from .configuration_demask import DemaskConfig


class DemaskDistanceBias(nn.Module):
    """Learned biases for the signed distance of a pair: for its logit and each attention head of the mixing layers.

    All are in one table: for few positions the cost of a head depends on the number of operations.
    """

    buckets: torch.Tensor

    def __init__(self, config: DemaskConfig):
        super().__init__()
        self.sizes = [1] + config.num_mixing_layers * [config.num_attention_heads]
        self.weight = nn.Parameter(torch.empty(sum(self.sizes), config.num_distance_buckets))
        self.register_buffer("buckets", distance_buckets(config), persistent=False)

    def forward(self, offsets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the biases, each of shape `(batch, 1 or heads, positions, positions)`.

        `offsets` are the distances, clamped at both ends, plus `max_distance`.
        """
        by_offset = self.weight.index_select(1, self.buckets)
        biases = by_offset.index_select(1, offsets.flatten()).view(-1, *offsets.shape)
        return biases.transpose(0, 1).split(self.sizes, dim=1)


class DemaskMixingLayer(nn.Module):
    """A pre-norm transformer layer over the masked positions, with a bias for the distance of each pair."""

    def __init__(self, config: DemaskConfig):
        super().__init__()
        self.num_heads, self.head_size = config.num_attention_heads, config.width // config.num_attention_heads
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.mix_qkv = nn.Linear(config.width, 3 * config.width)
        self.mix_output = nn.Linear(config.width, config.width)
        self.mlp_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.mlp_up = nn.Linear(config.width, 2 * config.width)
        self.mlp_down = nn.Linear(2 * config.width, config.width)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        batch, size, width = states.shape
        qkv = self.mix_qkv(self.attention_norm(states)).view(batch, size, 3, self.num_heads, self.head_size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        states = states + self.mix_output(mixed.transpose(1, 2).reshape(batch, size, width))
        return states + self.mlp_down(nn.functional.silu(self.mlp_up(self.mlp_norm(states))))


def distance_buckets(config: DemaskConfig) -> torch.Tensor:
    """Return the bucket of each distance from -max_distance to max_distance.

    Each sign has half of the buckets; of these, the nearer half is exact and the farther half logarithmic.
    """
    limit, half = config.max_distance, config.num_distance_buckets // 2
    distance = torch.arange(-limit, limit + 1)
    num_exact = half // 2
    size = distance.abs()
    log_share = torch.log(size.clamp(min=1) / num_exact) / math.log(limit / num_exact)
    far = (num_exact + (log_share * (half - num_exact)).long()).clamp(max=half - 1)
    return (torch.where(size < num_exact, size, far) + half * (distance > 0)).int()
