"""Multi-head attention: each position gathers from earlier ones what it needs (Vaswani et al. 2017, section 3.2,
https://arxiv.org/abs/1706.03762), with fewer key and value heads if wanted (multi-query: Shazeer 2019,
https://arxiv.org/abs/1911.02150; grouped-query: Ainslie et al. 2023, https://arxiv.org/abs/2305.13245)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_trainer.config import ModelConfig
from llm_trainer.models.blocked_attention import blocked_attention
from llm_trainer.models.context import AttentionContext
from llm_trainer.models.embeddings import apply_rotary
from llm_trainer.models.flex import flex_attention
from llm_trainer.models.layers import RMSNorm
from llm_trainer.models.patterned_attention import patterned_attention
from llm_trainer.models.patterns import EVERYTHING, layer_pattern
from llm_trainer.models.registry import register
from llm_trainer.models.tables import ValueEmbedding


@register("attention", "mha")
class MultiHeadAttention(nn.Module):
    """Self-attention; the context says whether both ways or only back.

    Args:
        config: its ``d_model``, ``n_heads``, ``kv_heads``, ``head_dim``, ``has_qkv_bias``, ``bias``, ``qk_norm``,
            ``value_embeddings``, ``attention_scale``, dropouts, ``attention_backend`` and the settings of attention
            patterns count. Positions come with the context, from the model.
        layer_index: which layer this is; the cache needs to know.

    Example:
        >>> import torch
        >>> from llm_trainer.config import ModelConfig
        >>> attention = MultiHeadAttention(ModelConfig(d_model=64, n_heads=4))
        >>> attention(torch.randn(2, 10, 64)).shape
        torch.Size([2, 10, 64])
    """

    supports_cache = True

    def __init__(self, config: ModelConfig, layer_index: int = 0) -> None:
        super().__init__()
        self.n_heads, self.kv_heads, self.head_dim = config.n_heads, config.kv_heads, config.head_dim
        self.layer_index = layer_index
        self.attention_dropout = config.attention_dropout
        self.pattern = layer_pattern(config, layer_index)
        self.flex = config.attention_backend == "flex"
        self.backend = explicit_attention if config.attention_backend == "explicit" else fused_attention
        # The backends divide by sqrt(head_dim); T5 does not.
        scale = config.attention_scale
        self.query_scale = None if scale is None else scale * math.sqrt(config.head_dim)
        self.q_proj = nn.Linear(config.d_model, config.n_heads * config.head_dim, bias=config.has_qkv_bias)
        self.k_proj = nn.Linear(config.d_model, config.kv_heads * config.head_dim, bias=config.has_qkv_bias)
        self.v_proj = nn.Linear(config.d_model, config.kv_heads * config.head_dim, bias=config.has_qkv_bias)
        self.o_proj = nn.Linear(config.n_heads * config.head_dim, config.d_model, bias=config.bias)
        # Over each head alone and before rotation, as in Qwen3: it bounds the scores, whatever the weights grow to.
        self.q_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None
        has_values = layer_index in config.value_embedding_layers
        self.value_embedding = ValueEmbedding(config) if has_values else None
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x: Tensor, context: AttentionContext | None = None) -> Tensor:
        """Attend.

        Args:
            x: (batch, seq, d_model).
            context: who sees whom, and positions; left out, plain causal attention without positions.

        Returns:
            (batch, seq, d_model).
        """
        context = context or AttentionContext()
        query, key, value = self._project(x)
        if self.value_embedding is not None:
            if context.token_ids is None:
                raise ValueError("attention with value embeddings needs context.token_ids")
            value = value + self.value_embedding(x, context.token_ids).to(value.dtype)
        query = self._heads(query, self.n_heads)  # (batch, heads, seq, head_dim)
        key = self._heads(key, self.kv_heads)  # (batch, kv_heads, seq, head_dim)
        value = self._heads(value, self.kv_heads)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if context.rotary is not None:
            query, key = apply_rotary(query, context.rotary), apply_rotary(key, context.rotary)
        if self.query_scale is not None:
            query = query * self.query_scale
        if context.cache is not None:
            key, value = context.cache.update(self.layer_index, key, value)  # (batch, kv_heads, slots, head_dim)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = self._mix(query, key, value, context, dropout)
        result: Tensor = self.dropout(self.o_proj(mixed.transpose(1, 2).flatten(2)))
        return result

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, context: AttentionContext, dropout: float) -> Tensor:
        """Let every query gather values: by the kernel that skips most of what is not seen, else with a mask.

        Shapes are those of :func:`explicit_attention`.
        """
        pattern = self.pattern
        if pattern is not None and pattern.shows_all(query.shape[2]) and context.in_blocks:
            pattern = None
        if self.flex and context.cache is None:
            return flex_attention(query, key, value, context, pattern or EVERYTHING)
        if pattern is None and context.causal:
            return self.backend(query, key, value, mask=None, causal=True, dropout=dropout)
        in_blocks = query.numel() and not dropout and context.by_blocks(pattern or EVERYTHING, query)
        if self.backend is fused_attention and in_blocks:
            query, key = query.to(value.dtype), key.to(value.dtype)
            rules = context.rules(query)
            return patterned_attention(
                query, key, value, pattern or EVERYTHING, causal=rules.causal, starts=rules.starts
            )
        mask = context.mask if pattern is None else context.mask_for(pattern, query)
        return self.backend(query, key, value, mask=mask, causal=False, dropout=dropout)

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values, each (batch, seq, its heads * head_dim).

        Training does it in one product, which saves two thirds of the calls: 3 % of a step at 128 wide. Generating one
        token reads every weight once, so there joining the weights would cost as much as the product. Layers that
        someone has wrapped or hooked (adapters, recorders) are called as they are.
        """
        layers = (self.q_proj, self.k_proj, self.v_proj)
        if not (torch.is_grad_enabled() and all(map(_is_plain, layers))):
            return [layer(x) for layer in layers]
        weight = torch.cat([layer.weight for layer in layers])  # (all heads * head_dim, d_model)
        bias = torch.cat([layer.bias for layer in layers]) if self.q_proj.bias is not None else None
        return torch.split(F.linear(x, weight, bias), [layer.out_features for layer in layers], dim=-1)

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        """(batch, seq, heads * head_dim) -> (batch, heads, seq, head_dim)."""
        return x.view(x.shape[0], x.shape[1], heads, self.head_dim).transpose(1, 2)


def _is_plain(layer: nn.Module) -> bool:
    """Whether calling a layer is nothing but ``F.linear`` with its weight and bias."""
    return type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)


def explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    """softmax(Q K^T / sqrt(head_dim) + mask) V, written out.

    Args:
        query: (batch, heads, query, head_dim).
        key: (batch, kv_heads, key, head_dim).
        value: (batch, kv_heads, key, head_dim).
        mask: added to the scores, (batch or 1, heads or 1, query, key), or None.
        causal: query i sees keys 0..i; then there are as many keys as queries, and no mask.
        dropout: probability of dropping an attention weight.

    Returns:
        (batch, heads, query, head_dim).
    """
    key, value = _repeat_heads(key, query.shape[1]), _repeat_heads(value, query.shape[1])
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (batch, heads, query, key)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(diagonal=1)
        scores = scores.masked_fill(future, float("-inf"))
    elif mask is not None:
        scores = scores + mask
    weights = F.dropout(scores.float().softmax(dim=-1), dropout)
    return weights.to(value.dtype) @ value


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    """The same as :func:`explicit_attention`: on a CPU in blocks where that is possible, otherwise through PyTorch's
    fused kernels, which never store the scores (FlashAttention: Dao et al. 2022, https://arxiv.org/abs/2205.14135)."""
    if not query.numel():  # nothing to cut in blocks
        return explicit_attention(query, key, value, mask=mask, causal=causal, dropout=dropout)
    if causal and not dropout and query.device.type == "cpu":
        return blocked_attention(query.to(value.dtype), key.to(value.dtype), value)
    grouped = query.shape[1] != key.shape[1]
    if grouped and mask is not None and query.is_cuda:
        # No fused CUDA kernel takes a mask and groups at once; the fallback stores all scores.
        key, value, grouped = _repeat_heads(key, query.shape[1]), _repeat_heads(value, query.shape[1]), False
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, enable_gqa=grouped
    )


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Let several query heads share a key head: (batch, kv_heads, key, head_dim) -> (batch, heads, key, head_dim)."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)
