"""Which of the visible tokens a layer looks at: a window, a window and some global tokens, or blocks.

Causality, documents and padding are other matters (:mod:`llm_trainer.models.context`); a pattern is symmetric, and
speaks of *places*: how many tokens of the same text come before.

==================  ===========================================================  =================================
pattern             a query at place q sees the key at place k if                source
==================  ===========================================================  =================================
``window`` w        abs(q - k) < w                                               Mistral 7B, Jiang et al. 2023,
                                                                                 https://arxiv.org/abs/2310.06825
``global_tokens`` g k < g, or q < g, besides                                     Longformer, Beltagy et al. 2020,
                                                                                 https://arxiv.org/abs/2004.05150
``block`` b,        their blocks q // b and k // b are equal or neighbours,      Sparse transformers, Child et al.
``stride`` s        or k's is a multiple of s                                    2019, https://arxiv.org/abs/1904.10509;
                                                                                 BigBird, Zaheer et al. 2020,
                                                                                 https://arxiv.org/abs/2007.14062
==================  ===========================================================  =================================
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from llm_trainer.config import ModelConfig

QUERY_BLOCK = 128
"""Queries that are computed together; see :mod:`llm_trainer.models.patterned_attention`."""


@dataclass(frozen=True)
class AttentionPattern:
    """Who looks at whom, by place. Without a window and without blocks, everyone at everyone."""

    window: int | None = None
    """Places that a query sees in one direction, its own included."""
    global_tokens: int = 0
    """First places, which see all and which all see."""
    block: int | None = None
    """Places per block."""
    stride: int = 8
    """Every so-many-th block is seen by all."""

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a query at one place looks at a key at another; the two broadcast."""
        if self.window is not None:
            near = (query - key).abs() < self.window
        elif self.block is not None:
            # Rounding down: a negative place (an empty slot) is of no block that counts.
            query_block = torch.div(query, self.block, rounding_mode="floor")
            key_block = torch.div(key, self.block, rounding_mode="floor")
            near = ((query_block - key_block).abs() <= 1) | (key_block % self.stride == 0)
        else:
            return torch.ones_like(query - key, dtype=torch.bool)
        if self.global_tokens:
            near = near | (key < self.global_tokens) | (query < self.global_tokens)
        return near

    def shows_all(self, seq: int) -> bool:
        """Whether it hides nothing in texts of up to ``seq`` tokens."""
        reach = self.window if self.window is not None else 2 * self.block if self.block is not None else seq
        return seq <= max(reach, self.global_tokens)

    def query_blocks(self, seq: int) -> Iterator[tuple[int, int]]:
        """Stretches of queries that see much the same keys. Global tokens, which may see all, are by themselves."""
        edges = sorted({*range(0, seq, QUERY_BLOCK), min(self.global_tokens, seq), seq})
        return itertools.pairwise(edges)

    def spans(self, start: int, stop: int, seq: int, *, causal: bool) -> list[tuple[int, int]]:
        """The stretches of keys that any query of places ``start`` to ``stop`` looks at, in order and disjoint."""
        end = stop if causal else seq
        if (self.window is None and self.block is None) or start < self.global_tokens:
            return [(0, end)]
        found = [(0, min(self.global_tokens, end))] if self.global_tokens else []
        if self.window is not None:
            found.append((start - self.window + 1, stop + self.window - 1))
        elif self.block is not None:
            first, last, size = start // self.block, (stop - 1) // self.block, self.block
            found.append(((first - 1) * size, (last + 2) * size))
            found.extend((block * size, (block + 1) * size) for block in range(0, -(-end // size), self.stride))
        return _merged([(max(0, low), min(high, end)) for low, high in found])

    def keys_per_query(self, seq: int) -> int:
        """The most keys that a query which is no global token looks at, in a causal text of ``seq`` tokens."""
        # On the CPU even while a model is being built without memory.
        last = torch.tensor(max(seq - 1, self.global_tokens), device="cpu")
        return int(self.allows(last, torch.arange(seq, device="cpu")).sum())

    def numbers(self) -> list[int]:
        """As the operators of PyTorch take it; 0 stands for None."""
        return [value or 0 for value in astuple(self)]

    @classmethod
    def from_numbers(cls, numbers: list[int]) -> AttentionPattern:
        """The inverse of :meth:`numbers`."""
        window, global_tokens, block, stride = numbers
        return cls(window or None, global_tokens, block or None, stride)


EVERYTHING = AttentionPattern()


def model_pattern(config: ModelConfig) -> AttentionPattern | None:
    """The pattern of those layers that have one; None if no layer has."""
    if not config.has_attention_pattern:
        return None
    return AttentionPattern(config.sliding_window, config.global_tokens, config.sparse_block, config.sparse_stride)


def layer_pattern(config: ModelConfig, layer: int) -> AttentionPattern | None:
    """The pattern of one layer, counted from 0; None if it sees everything."""
    return None if config.sees_everything(layer) else model_pattern(config)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(span for span in spans if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged
