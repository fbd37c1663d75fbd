"""Attention along a pattern, and within documents, for processors: each block of queries meets only keys it can see.

The idea is that of :mod:`~llm_trainer.models.blocked_attention`: a block of queries is one batched product with the
keys in its view. Here the view is a few stretches of keys instead of all earlier ones, so a window of 256 costs what a
text of 256 tokens would, token by token, however long the text is. Scores are never kept: they are computed again for
the backward pass. :func:`~llm_trainer.models.attention.explicit_attention` with a mask is the readable twin.

Forward and backward are operators of their own (``torch.library``), which the compiler takes as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm_trainer.models.patterns import AttentionPattern

Span = tuple[int, int]


def patterned_attention(
    query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern, *, causal: bool, starts: Tensor | None = None
) -> Tensor:
    """softmax(Q K^T / sqrt(head_dim)) V, where a query sees what the pattern, causality and its document let it.

    Args:
        query: (batch, heads, seq, head_dim).
        key: (batch, kv_heads, seq, head_dim); ``heads`` is a multiple of ``kv_heads``.
        value: (batch, kv_heads, seq, head_dim).
        pattern: by place in the document.
        causal: a query sees nothing behind itself.
        starts: (batch, seq) int64, the index at which each token's document begins; None: every row is one document.

    Returns:
        (batch, heads, seq, head_dim), in the memory order (batch, seq, heads, head_dim), as the next layer wants it.
    """
    mixed: Tensor = _forward(query, key, value, starts, pattern.numbers(), causal)
    return mixed


@torch.library.custom_op("llm_trainer::patterned_attention", mutates_args=())
def _forward(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None, pattern: list[int], causal: bool
) -> Tensor:
    batch, heads, seq, width = query.shape
    mixed = query.new_empty(batch, seq, heads, width).transpose(1, 2)
    query, key, value = _by_group(query, key), key.reshape(-1, seq, width), value.reshape(-1, seq, width)
    for view in _views(AttentionPattern.from_numbers(pattern), seq, causal, starts, query.device):
        weights = view.weights(query, view.take(key), batch)
        rows = torch.bmm(weights, view.take(value))  # (batch * kv_heads, group * block, head_dim)
        mixed[:, :, view.start : view.stop] = rows.view(batch, heads, -1, width)
    return mixed


@torch.library.custom_op("llm_trainer::patterned_attention_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor | None,
    pattern: list[int],
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, contiguous, given that of the result."""
    shape, kv_shape, batch = query.shape, key.shape, query.shape[0]
    seq, width = shape[-2:]
    query, gradient = _by_group(query, key), _by_group(gradient, key)
    key, value = key.reshape(-1, seq, width), value.reshape(-1, seq, width)
    grad_query = torch.empty_like(query)
    # Every block adds to them, and bfloat16 would lose the small addends.
    sums = torch.promote_types(key.dtype, torch.float32)
    grad_key, grad_value = torch.zeros_like(key, dtype=sums), torch.zeros_like(key, dtype=sums)
    for view in _views(AttentionPattern.from_numbers(pattern), seq, causal, starts, query.device):
        keys = view.take(key)
        weights = view.weights(query, keys, batch)
        rows = view.rows(gradient)
        grad_scores = torch._softmax_backward_data(
            torch.bmm(rows, view.take(value).mT), weights, -1, weights.dtype
        ).mul_(1 / math.sqrt(width))
        grad_query[:, :, view.start : view.stop] = torch.bmm(grad_scores, keys).view(*query.shape[:2], -1, width)
        view.add_to(grad_key, torch.bmm(grad_scores.mT, view.rows(query)))
        view.add_to(grad_value, torch.bmm(weights.mT, rows))
    return grad_query.view(shape), grad_key.to(key.dtype).view(kv_shape), grad_value.to(key.dtype).view(kv_shape)


@_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None, pattern: list[int], causal: bool) -> Tensor:
    batch, heads, seq, width = query.shape
    return query.new_empty(batch, seq, heads, width).transpose(1, 2)


@_backward.register_fake
def _(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor | None,
    pattern: list[int],
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.pattern, ctx.causal = inputs[4:]


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(gradient, *ctx.saved_tensors, ctx.pattern, ctx.causal), None, None, None)


_forward.register_autograd(_differentiate, setup_context=_remember)


@dataclass
class _View:
    """A block of queries and the keys that it meets."""

    start: int
    stop: int
    spans: list[Span]
    """Stretches of keys."""
    hidden: Tensor | None
    """(batch or 1, 1, block, keys), true where a query must not look; None if everyone sees everything here."""

    def take(self, x: Tensor) -> Tensor:
        """The keys in view: (rows, seq, head_dim) -> (rows, keys, head_dim)."""
        pieces = [x[:, start:stop] for start, stop in self.spans]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """The inverse of :meth:`take`, for gradients: adds (rows, keys, head_dim) to (rows, seq, head_dim)."""
        for (start, stop), piece in zip(self.spans, torch.split(x, [b - a for a, b in self.spans], dim=1), strict=True):
            total[:, start:stop] += piece

    def rows(self, grouped: Tensor) -> Tensor:
        """The block of all query heads in a group: (batch * kv_heads, group * block, head_dim)."""
        return grouped[:, :, self.start : self.stop].reshape(grouped.shape[0], -1, grouped.shape[-1])

    def weights(self, query: Tensor, keys: Tensor, batch: int) -> Tensor:
        """softmax of the scaled scores, (batch * kv_heads, group * block, keys)."""
        scores = torch.bmm(self.rows(query), keys.mT).mul_(1 / math.sqrt(query.shape[-1]))
        if self.hidden is not None:
            # (batch, heads, block, keys)
            scores.view(batch, -1, self.stop - self.start, keys.shape[1]).masked_fill_(self.hidden, -math.inf)
        return scores.softmax(dim=-1)


def _views(
    pattern: AttentionPattern, seq: int, causal: bool, starts: Tensor | None, device: torch.device
) -> Iterator[_View]:
    """All blocks of queries. With documents, a block's view begins where its first one begins in any row."""
    index = torch.arange(seq, device=device)
    blocks = list(pattern.query_blocks(seq))
    if starts is None:
        lowest, highest = [0] * len(blocks), [seq] * len(blocks)
    else:
        lowest = starts[:, [start for start, _ in blocks]].amin(dim=0).tolist()
        # A document ends where the next one begins: starts only grow along a row.
        last = starts[:, [stop - 1 for _, stop in blocks]].unsqueeze(-1)  # (batch, blocks, 1)
        highest = (starts.unsqueeze(1) <= last).sum(dim=-1).amax(dim=0).tolist()
    for (start, stop), low, high in zip(blocks, lowest, highest, strict=True):
        spans = _clipped(_spans(pattern, start, stop, seq, causal, whole=starts is not None), low, high)
        queries = index[start:stop].unsqueeze(-1)  # (block, 1)
        keys = torch.cat([index[a:b] for a, b in spans])  # (keys,)
        if starts is None:
            allowed = pattern.allows(queries, keys)
        else:
            begin, key_begin = starts[:, start:stop].unsqueeze(-1), starts[:, keys].unsqueeze(1)
            allowed = pattern.allows(queries - begin, keys - key_begin) & (begin == key_begin)
        if causal:
            allowed = allowed & (keys <= queries)
        hidden = None if bool(allowed.all()) else ~allowed.view(-1, 1, stop - start, len(keys))
        yield _View(start, stop, spans, hidden)


def _spans(pattern: AttentionPattern, start: int, stop: int, seq: int, causal: bool, *, whole: bool) -> list[Span]:
    """``whole``: places count from the start of a document, and only a window says something without knowing it."""
    if whole and (pattern.global_tokens or pattern.block):
        return [(0, stop if causal else seq)]
    return pattern.spans(start, stop, seq, causal=causal)


def _clipped(spans: list[Span], low: int, high: int) -> list[Span]:
    return [(max(a, low), min(b, high)) for a, b in spans if max(a, low) < min(b, high)]


def _by_group(query: Tensor, key: Tensor) -> Tensor:
    """Bring the query heads that share a key head together: (batch * kv_heads, group, seq, head_dim)."""
    return query.reshape(key.shape[0] * key.shape[1], -1, *query.shape[-2:])
