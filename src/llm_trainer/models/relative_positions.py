"""T5's positions: each kind of distance between two tokens has a learned bias on their score, one for every head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class RelativePositionBias(nn.Module):
    """A bias by distance, shared by all layers of a stack (Raffel et al. 2020, section 2.1,
    https://arxiv.org/abs/1910.10683). Small distances have a bucket each, larger ones share buckets that widen with the
    logarithm, and from ``max_distance`` on all are one: so a model can read further than it was trained.

    Args:
        n_heads: heads of the attention.
        buckets: kinds of distance.
        max_distance: beyond it, in tokens, all distances are one kind.
        bidirectional: whether keys behind the query have buckets of their own, half of them; else only those before.

    Example:
        >>> import torch
        >>> bias = RelativePositionBias(n_heads=4, buckets=32, max_distance=128, bidirectional=False)
        >>> positions = torch.arange(10).unsqueeze(0)
        >>> bias(positions, positions).shape
        torch.Size([1, 4, 10, 10])
    """

    def __init__(self, n_heads: int, buckets: int = 32, max_distance: int = 128, bidirectional: bool = False) -> None:
        super().__init__()
        self.buckets, self.max_distance, self.bidirectional = buckets, max_distance, bidirectional
        self.embedding = nn.Embedding(buckets, n_heads)

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """The bias of (batch or 1, query) and (batch or 1, key) positions: (batch or 1, heads, query, key)."""
        distance = key_positions.unsqueeze(1) - query_positions.unsqueeze(2)  # (batch, query, key)
        kinds = relative_buckets(distance, self.buckets, self.max_distance, bidirectional=self.bidirectional)
        return self.embedding(kinds).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def relative_buckets(distance: Tensor, buckets: int, max_distance: int, *, bidirectional: bool) -> Tensor:
    """The bucket of each distance, key minus query, in tokens; integers of any shape."""
    ahead = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        ahead = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    # In float32 and rounded towards zero: the borders of the buckets are part of what published weights mean.
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    shared = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return ahead + torch.where(distance < exact, distance, shared)
