"""What attention needs to know besides its input, built once per forward pass and handed to every block.

Who may look at whom (causality, documents, padding, the cache), the rotary tables of the positions in this batch, and
the ALiBi bias. Building it in the model, once, keeps the attention layer to attention alone, and spares every layer
the making of a (seq x seq) mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llm_trainer.models.embeddings import RotaryEmbedding, alibi_bias
from llm_trainer.models.kv_cache import KVCache


@dataclass
class AttentionContext:
    """Given to ``attention(x, context)``. The default is plain causal attention without positions."""

    causal: bool = True
    """Position i sees positions 0..i, and ``mask`` is None: the case that fused kernels know by themselves."""
    mask: Tensor | None = None
    """Added to the scores: 0 or an ALiBi bias where allowed, -inf elsewhere. (batch or 1, heads or 1, query, key)"""
    rotary: tuple[Tensor, Tensor] | None = None
    """Cosines and sines, (seq, head_dim / 2) or (batch, 1, seq, head_dim / 2)."""
    cache: KVCache | None = None
    """Where keys and values of earlier tokens are."""
    token_ids: Tensor | None = None
    """The input ids, (batch, seq), for layers that look something up by token."""


def build_context(
    seq: int,
    positions: Tensor | None,
    *,
    document_ids: Tensor | None,
    attention_mask: Tensor | None,
    cache: KVCache | None,
    rotary: RotaryEmbedding | None,
    slopes: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> AttentionContext:
    """Choose the cheapest context that says what must be said.

    Args:
        seq: number of new tokens per row.
        positions: (batch or 1, seq), or None for 0, 1, 2... in every row.
        document_ids: (batch, seq), or None.
        attention_mask: (batch, seq), or None; not with a cache.
        cache: after its ``begin``.
        rotary: the model's tables, if it has rotary positions.
        slopes: (heads,), if it has ALiBi.
        dtype: of the queries.
        device: of the mask.
    """
    tables = None if rotary is None else rotary(seq, positions)
    allowed: Tensor | None = None
    causal = slopes is None
    if cache is None:
        causal = causal and document_ids is None and attention_mask is None
        if not causal:
            allowed = allowed_pairs(seq, document_ids, attention_mask, device)
    elif positions is not None or slopes is not None:
        causal = False
        alone = positions is not None and positions.numel() == 1  # one query, after everything in view
        if not alone or slopes is not None:
            allowed = visible_slots(_or_range(positions, seq, device), cache.visible)
    if allowed is None:
        return AttentionContext(causal=causal, rotary=tables, cache=cache)
    bias = None
    if slopes is not None:
        queries = _or_range(positions, seq, device)
        keys = queries if cache is None else _or_range(None, cache.visible, device)
        bias = alibi_bias(slopes, queries, keys)
    return AttentionContext(causal=False, mask=additive_mask(allowed, bias, dtype), rotary=tables, cache=cache)


def _or_range(positions: Tensor | None, seq: int, device: torch.device) -> Tensor:
    return torch.arange(seq, device=device).unsqueeze(0) if positions is None else positions


def allowed_pairs(seq: int, document_ids: Tensor | None, attention_mask: Tensor | None, device: torch.device) -> Tensor:
    """Who may look at whom without a cache.

    Args:
        seq: length of the rows.
        document_ids: (batch, seq); tokens of different documents never see each other.
        attention_mask: (batch, seq), 1 for tokens and 0 for padding, on either side.
        device: of the result.

    Returns:
        (batch or 1, 1, query, key), true where the query may look. Everything may look at itself, padding too: a row
        of nothing but -inf would be NaN after the softmax.
    """
    allowed = torch.ones(seq, seq, dtype=torch.bool, device=device).tril()  # (query, key)
    if document_ids is not None:
        same = document_ids.unsqueeze(2) == document_ids.unsqueeze(1)  # (batch, query, key)
        allowed = allowed & same
    if attention_mask is not None:
        allowed = allowed & attention_mask.bool().unsqueeze(1)
        allowed = allowed | torch.eye(seq, dtype=torch.bool, device=device)
    return allowed.unsqueeze(-3) if allowed.ndim == 3 else allowed[None, None]


def visible_slots(position_ids: Tensor, slots: int) -> Tensor:
    """Who may look at whom with a cache: a query at position p sees slots 0..p.

    Args:
        position_ids: (batch, seq).
        slots: number of slots in view.

    Returns:
        (batch, 1, seq, slots), true where the query may look.
    """
    slot = torch.arange(slots, device=position_ids.device)
    return (slot <= position_ids.unsqueeze(-1)).unsqueeze(1)


def additive_mask(allowed: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Turn permissions into numbers to add to the scores.

    Args:
        allowed: boolean, (batch or 1, 1, query, key).
        bias: ALiBi, (batch or 1, heads, query, key), or None.
        dtype: of the queries, as the fused kernels demand.
    """
    mask = torch.zeros_like(allowed, dtype=dtype) if bias is None else bias.to(dtype)
    return mask.masked_fill(~allowed, float("-inf"))
