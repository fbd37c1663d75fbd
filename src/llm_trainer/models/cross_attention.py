"""The decoder's look at the source: attention whose queries are the decoder's and whose keys and values are the
encoder's (Vaswani et al. 2017, section 3.2.3, https://arxiv.org/abs/1706.03762), and the block that holds it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm_trainer.config import ModelConfig
from llm_trainer.models.attention import explicit_attention, fused_attention
from llm_trainer.models.block import TransformerBlock
from llm_trainer.models.context import AttentionContext
from llm_trainer.models.kv_cache import KVCache
from llm_trainer.models.layers import build_norm


@dataclass
class Memory:
    """What an encoder made of its source, for every row of a decoder."""

    hidden: Tensor
    """(batch, source, d_model)."""
    mask: Tensor | None = None
    """(batch, source), 1 for tokens and 0 for padding; None where nothing is padded."""

    def select(self, rows: Tensor) -> Memory:
        """Row i becomes what row ``rows[i]`` was, as when a beam search has chosen its beams."""
        return Memory(self.hidden[rows], None if self.mask is None else self.mask[rows])

    def additive_mask(self, dtype: torch.dtype) -> Tensor | None:
        """(batch, 1, 1, source), 0 for tokens and -inf for padding. There is no causality here: the whole source is
        known before the first word of the answer. A source of nothing but padding is seen whole, or it would be NaN."""
        if self.mask is None:
            return None
        real = self.mask.bool()
        hidden = ~(real | ~real.any(dim=1, keepdim=True))
        zeros = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return zeros.masked_fill(hidden, float("-inf"))[:, None, None, :]


class DecoderContext(AttentionContext):
    """What the blocks of a decoder with an encoder beside it get: the context of its self-attention, and the source.

    Args:
        own: of the self-attention.
        memory: the encoder's output.
        dtype: of the queries.
        sources: keys and values of the source by layer, kept while tokens are generated; None where nothing is kept.
    """

    def __init__(
        self,
        own: AttentionContext,
        memory: Memory,
        dtype: torch.dtype,
        sources: dict[int, tuple[Tensor, Tensor]] | None,
    ) -> None:
        vars(self).update(vars(own))
        self.source = memory.hidden  # (batch, source, d_model)
        self.source_mask = memory.additive_mask(dtype)  # (batch, 1, 1, source), or None
        self.sources = sources


class SourceCache(KVCache):
    """A key-value cache that also keeps the keys and values of the source, which are worked out once."""

    sources: dict[int, tuple[Tensor, Tensor]] | None = None

    def known_sources(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Layer -> keys and values, (batch, kv_heads, source, head_dim) each; the layers fill it."""
        if self.sources is None:
            self.sources = {}
        return self.sources

    def reorder(self, rows: Tensor) -> None:
        """As in :class:`KVCache`, the source included."""
        super().reorder(rows)
        if self.sources is not None:
            self.sources = {layer: (key[rows], value[rows]) for layer, (key, value) in self.sources.items()}

    def reset(self) -> None:
        """As in :class:`KVCache`; another source may follow."""
        super().reset()
        self.sources = None


class CrossAttention(nn.Module):
    """Attention from the decoder to the encoder.

    Positions play no part: a distance between a word of the answer and one of the source would mean nothing. Nor does
    causality: every position of the answer sees the whole source, padding excepted.

    Args:
        config: its widths, heads, biases, ``attention_scale``, dropouts and ``attention_backend`` count.
        layer_index: under which the cache keeps its keys and values.
    """

    def __init__(self, config: ModelConfig, layer_index: int) -> None:
        super().__init__()
        self.n_heads, self.kv_heads, self.head_dim = config.n_heads, config.kv_heads, config.head_dim
        self.layer_index = layer_index
        self.attention_dropout = config.attention_dropout
        self.backend = explicit_attention if config.attention_backend == "explicit" else fused_attention
        scale = config.attention_scale
        self.query_scale = None if scale is None else scale * math.sqrt(config.head_dim)
        bias = config.has_qkv_bias
        self.q_proj = nn.Linear(config.d_model, config.n_heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.d_model, config.kv_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.d_model, config.kv_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.n_heads * config.head_dim, config.d_model, bias=config.bias)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x: Tensor, context: DecoderContext) -> Tensor:
        """(batch, seq, d_model) -> same shape; the source comes with the context."""
        query = self._heads(self.q_proj(x), self.n_heads)  # (batch, heads, seq, head_dim)
        if self.query_scale is not None:
            query = query * self.query_scale
        key, value = self._source(context)  # (batch, kv_heads, source, head_dim)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = self.backend(query, key, value, mask=context.source_mask, causal=False, dropout=dropout)
        result: Tensor = self.dropout(self.o_proj(mixed.transpose(1, 2).flatten(2)))
        return result

    def _source(self, context: DecoderContext) -> tuple[Tensor, Tensor]:
        kept = context.sources
        if kept is not None and self.layer_index in kept:
            return kept[self.layer_index]
        key = self._heads(self.k_proj(context.source), self.kv_heads)
        value = self._heads(self.v_proj(context.source), self.kv_heads)
        if kept is not None:
            kept[self.layer_index] = (key, value)
        return key, value

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        """(batch, seq, heads * head_dim) -> (batch, heads, seq, head_dim)."""
        return x.view(x.shape[0], x.shape[1], heads, self.head_dim).transpose(1, 2)


class CrossAttentionBlock(TransformerBlock):
    """A block with a third sublayer between the other two: causal self-attention, cross-attention, feed-forward.

    Each is followed by its residual sum, and normalised before (``pre_norm``) or after it, as in
    :class:`TransformerBlock`.

    Args:
        config: names the components.
        layer_index: which layer of the decoder this is.
    """

    def __init__(self, config: ModelConfig, layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.cross_attention_norm = build_norm(config)
        self.cross_attention = CrossAttention(config, layer_index)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """(batch, seq, d_model) -> same shape."""
        assert isinstance(context, DecoderContext)
        if self.pre_norm:
            x = x + self.attention(self.attention_norm(x), context)
            x = x + self.cross_attention(self.cross_attention_norm(x), context)
            x = x + self.feed_forward(self.ffn_norm(x))
        else:
            x = self.attention_norm(x + self.attention(x, context))
            x = self.cross_attention_norm(x + self.cross_attention(x, context))
            x = self.ffn_norm(x + self.feed_forward(x))
        return x
