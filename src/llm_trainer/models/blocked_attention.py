"""Causal attention for processors: block after block of queries, each against the keys it can see.

On a CPU a matrix product runs near the machine's peak, and PyTorch's fused attention does not
(``benchmarks/kernels.py`` compares the two). Here a block of queries is one batched product with all keys up to its
end, so that the half of the scores that causality forbids is hardly computed, and a block's scores stay in the cache.
:func:`~llm_trainer.models.attention.explicit_attention` is the readable twin.

Forward and backward are operators of their own (``torch.library``), which the compiler takes as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""Queries per block. 64 and 256 were within 15 % of it."""
STORED_LENGTH = 1024
"""Up to this many tokens the attention weights are kept for the backward pass; beyond, where they would be most of the
memory, they are computed again."""


def blocked_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(head_dim)) V, where query i sees keys 0..i.

    Args:
        query: (batch, heads, seq, head_dim).
        key: (batch, kv_heads, seq, head_dim); ``heads`` is a multiple of ``kv_heads``.
        value: (batch, kv_heads, seq, head_dim).

    Returns:
        (batch, heads, seq, head_dim), in the memory order (batch, seq, heads, head_dim), as the next layer wants it.
    """
    mixed: Tensor = _forward(query, key, value, torch.is_grad_enabled())[0]
    return mixed


@torch.library.custom_op("llm_trainer::blocked_attention", mutates_args=())
def _forward(query: Tensor, key: Tensor, value: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """The result, and the attention weights of all blocks one after another (none of them if ``keep`` is false)."""
    batch, heads, seq, width = query.shape
    mixed = query.new_empty(batch, seq, heads, width).transpose(1, 2)
    stored = query.new_empty(_stored_size(query, keep))
    query, key, value = _by_group(query, key), key.reshape(-1, seq, width), value.reshape(-1, seq, width)
    mask = _band(seq, query)
    offset = 0
    for start, stop in _blocks(seq):
        scores = _scores(query, key, mask, start, stop)
        if len(stored):
            weights = stored[offset : offset + scores.numel()].view_as(scores)
            offset += scores.numel()
            torch.softmax(scores, dim=-1, out=weights)
        else:
            weights = scores.softmax(dim=-1)
        rows = torch.bmm(weights, value[:, :stop])  # (batch * kv_heads, group * block, head_dim)
        mixed[:, :, start:stop] = rows.view(batch, heads, stop - start, width)
    return mixed, stored


@torch.library.custom_op("llm_trainer::blocked_attention_backward", mutates_args=())
def _backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, stored: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, contiguous, given that of the result."""
    shape, kv_shape = query.shape, key.shape
    seq, width = shape[-2:]
    query, gradient = _by_group(query, key), _by_group(gradient, key)
    key, value = key.reshape(-1, seq, width), value.reshape(-1, seq, width)
    grad_query = torch.empty_like(query)
    # Every block adds to them, and bfloat16 would lose the small addends.
    grad_key, grad_value = torch.zeros_like(key, dtype=_sum_dtype(key)), torch.zeros_like(key, dtype=_sum_dtype(key))
    mask = _band(seq, query)
    offset = 0
    for start, stop in _blocks(seq):
        if len(stored):
            size = query.shape[0] * query.shape[1] * (stop - start) * stop
            weights = stored[offset : offset + size].view(query.shape[0], -1, stop)
            offset += size
        else:
            weights = _scores(query, key, mask, start, stop).softmax(dim=-1)
        rows = _rows(gradient, start, stop)
        grad_weights = torch.bmm(rows, value[:, :stop].transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_scores.mul_(1 / math.sqrt(width))
        grad_query[:, :, start:stop] = torch.bmm(grad_scores, key[:, :stop]).view_as(grad_query[:, :, start:stop])
        grad_key[:, :stop] += torch.bmm(grad_scores.transpose(1, 2), _rows(query, start, stop))
        grad_value[:, :stop] += torch.bmm(weights.transpose(1, 2), rows)
    return grad_query.view(shape), grad_key.to(key.dtype).view(kv_shape), grad_value.to(key.dtype).view(kv_shape)


@_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    batch, heads, seq, width = query.shape
    return query.new_empty(batch, seq, heads, width).transpose(1, 2), query.new_empty(_stored_size(query, keep))


@_backward.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs[:3], output[1])


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(gradient, *ctx.saved_tensors), None)


_forward.register_autograd(_differentiate, setup_context=_remember)


def _blocks(seq: int) -> Iterator[tuple[int, int]]:
    return ((start, min(seq, start + BLOCK)) for start in range(0, seq, BLOCK))


def _stored_size(query: Tensor, keep: bool) -> int:
    """Numbers in the attention weights of all blocks, or 0 if they are not kept."""
    batch, heads, seq, _ = query.shape
    if not keep or seq > STORED_LENGTH:
        return 0
    return batch * heads * sum((stop - start) * stop for start, stop in _blocks(seq))


def _by_group(query: Tensor, key: Tensor) -> Tensor:
    """Bring the query heads that share a key head together: (batch * kv_heads, group, seq, head_dim)."""
    return query.reshape(key.shape[0] * key.shape[1], -1, *query.shape[-2:])


def _rows(grouped: Tensor, start: int, stop: int) -> Tensor:
    """One block of all query heads in a group: (batch * kv_heads, group * block, head_dim)."""
    return grouped[:, :, start:stop].reshape(grouped.shape[0], -1, grouped.shape[-1])


def _scores(query: Tensor, key: Tensor, mask: Tensor, start: int, stop: int) -> Tensor:
    """Scaled scores of one block, -inf in the future: (batch * kv_heads, group * block, stop)."""
    # The last block's mask, moved: row r of this block sees columns 0..start + r.
    left = mask.shape[1] - mask.shape[0] - start
    seen = mask[: stop - start, left : left + stop].repeat(query.shape[1], 1)
    return torch.baddbmm(seen, _rows(query, start, stop), key[:, :stop].mT, alpha=1 / math.sqrt(query.shape[-1]))


def _band(seq: int, like: Tensor) -> Tensor:
    """The mask of the last block if it is a full one, (block, blocks * block): 0 where seen, -inf in the future."""
    block = min(BLOCK, seq)
    width = -(-seq // block) * block
    return like.new_full((block, width), -math.inf).triu_(diagonal=width - block + 1)


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
