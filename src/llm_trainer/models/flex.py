"""Attention through PyTorch's FlexAttention, which takes the rules as a function and compiles a kernel for them.

On a GPU it skips, block by block, the scores that a pattern, a document border or causality hides
(https://pytorch.org/blog/flexattention/). PyTorch computes no gradients with it on a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llm_trainer.common.errors import UserError
from llm_trainer.models.context import AttentionContext, Visibility
from llm_trainer.models.patterns import AttentionPattern

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From (batch, query, key) indices to whether the query looks at the key."""


def flex_attention(
    query: Tensor, key: Tensor, value: Tensor, context: AttentionContext, pattern: AttentionPattern
) -> Tensor:
    """The same as :func:`~llm_trainer.models.attention.explicit_attention`, without dropout and without a cache.

    Args:
        query: (batch, heads, seq, head_dim).
        key: (batch, kv_heads, seq, head_dim).
        value: (batch, kv_heads, seq, head_dim).
        context: built from rules, not from a mask.
        pattern: the layer's.

    Returns:
        (batch, heads, seq, head_dim).

    Raises:
        UserError: gradients are wanted on a CPU, or PyTorch cannot compile here.
    """
    if query.device.type == "cpu" and torch.is_grad_enabled() and query.requires_grad:
        raise UserError(
            "FlexAttention computes no gradients on a CPU",
            hint="train with attention_backend sdpa, whose kernel for CPUs skips what a pattern hides as well",
        )
    if context.visibility is None and context.has_mask:
        raise ValueError("attention_backend flex needs a context built from rules (build_context), not from a mask")
    rules = context.rules(query)
    if pattern not in context.block_masks:
        context.block_masks[pattern] = block_mask(rules, pattern)
    grouped = query.shape[1] != key.shape[1]
    query, key = query.to(value.dtype), key.to(value.dtype)
    kernel, score = _kernel(), _score_mod(rules, query.shape[0])
    mixed: Tensor = kernel(
        query, key, value, score_mod=score, block_mask=context.block_masks[pattern], enable_gqa=grouped
    )
    return mixed


def block_mask(rules: Visibility, pattern: AttentionPattern) -> Any:
    """What is hidden, by blocks of 128 x 128: a ``BlockMask``. Made anew only where it depends on the batch."""
    if rules.starts is None and rules.attention_mask is None:
        return _plain_block_mask(pattern, rules.seq, rules.causal, rules.device)
    by_row = rules.attention_mask if rules.starts is None else rules.starts  # (batch, seq)
    assert by_row is not None
    return _create(_mask_mod(rules, pattern), by_row.shape[0], rules.seq, rules.device)


@functools.lru_cache(maxsize=32)
def _plain_block_mask(pattern: AttentionPattern, seq: int, causal: bool, device: torch.device) -> Any:
    rules = Visibility(seq, device, torch.float32, causal=causal)
    return _create(_mask_mod(rules, pattern), None, seq, device)


def _create(mask_mod: Any, batch: int | None, seq: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(mask_mod, batch, None, seq, seq, device=str(device))


def _mask_mod(rules: Visibility, pattern: AttentionPattern) -> Any:
    """The rules, in FlexAttention's form: (batch, head, query, key) indices -> whether the query looks at the key.

    Put together from functions that decide nothing themselves: the compiler may confuse two that differ only in what
    they have captured.
    """
    conditions: list[Rule] = []
    starts, padding = rules.starts, rules.attention_mask
    if rules.causal:
        conditions.append(lambda batch, query, key: query >= key)
    near = _near(pattern, rules.device)
    if near is not None:
        if starts is None and padding is None:
            conditions.append(lambda batch, query, key: near(query, key))
        else:
            places = rules.places()  # (batch, seq)
            conditions.append(lambda batch, query, key: near(places[batch, query], places[batch, key]))
    if starts is not None:
        conditions.append(lambda batch, query, key: starts[batch, query] == starts[batch, key])
    if padding is not None:
        conditions.append(lambda batch, query, key: padding[batch, key] != 0)
    conditions = conditions or [lambda batch, query, key: query == query]

    def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = conditions[0](batch, query, key)
        for condition in conditions[1:]:
            seen = seen & condition(batch, query, key)
        return seen

    def allowed_or_self(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return allowed(batch, head, query, key) | (query == key)

    return allowed if padding is None else allowed_or_self


def _near(pattern: AttentionPattern, device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """:meth:`AttentionPattern.allows` for the compiler; None if it allows everything.

    Its numbers are tensors: plain ones become symbols when they change from model to model, which PyTorch 2.13 cannot
    follow here.
    """
    window, first, block, stride = (torch.tensor(number, device=device) for number in pattern.numbers())

    def in_window(query: Tensor, key: Tensor) -> Tensor:
        return (query - key).abs() < window

    def in_blocks(query: Tensor, key: Tensor) -> Tensor:
        query_block, key_block = query // block, key // block
        return ((query_block - key_block).abs() <= 1) | (key_block % stride == 0)

    if pattern.window is None and pattern.block is None:
        return None
    near = in_window if pattern.window is not None else in_blocks
    if not pattern.global_tokens:
        return near
    return lambda query, key: near(query, key) | (key < first) | (query < first)


def _score_mod(rules: Visibility, batch_size: int) -> Any:
    """What is added to a score by distance, as FlexAttention takes it; None if nothing is."""
    slopes = rules.slopes
    if slopes is None:
        return None
    positions = rules.positions if rules.positions is not None else torch.arange(rules.seq, device=rules.device)[None]
    positions = positions.expand(batch_size, -1)  # (batch, seq)

    def ahead(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + slopes[head] * (positions[batch, key] - positions[batch, query])

    def either_way(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score - slopes[head] * (positions[batch, key] - positions[batch, query]).abs()

    return ahead if rules.causal else either_way


@functools.lru_cache(maxsize=1)
def _kernel() -> Any:
    """FlexAttention, compiled: without that it writes out all scores."""
    from torch.nn.attention.flex_attention import flex_attention as flex

    compiled: Any = torch.compile(flex)

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return compiled(*arguments, **options)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise UserError(
                f"PyTorch cannot compile FlexAttention here: {str(error).strip().splitlines()[0]}",
                hint="use attention_backend sdpa; on a CPU, compiling needs a C++ compiler such as g++",
            ) from error

    return call
