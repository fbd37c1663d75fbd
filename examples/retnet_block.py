"""A part of your own, 2: retention, attention without a softmax (Sun et al. 2023, https://arxiv.org/abs/2307.08621).

Nothing of it is in the program. A configuration names this file and the attention that it registers:

    llm-trainer train model.extensions=[examples/retnet_block.py] model.attention=retention

A head weighs what it finds by ``decay ** distance`` instead of by a softmax. Therefore the same numbers come out of
three computations: all pairs at once, a state that is handed on from token to token, and a mixture of the two.

Generation reads the whole text at every step: the module says nothing of ``supports_cache``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_trainer.config import ModelConfig
from llm_trainer.models import register
from llm_trainer.models.context import AttentionContext
from llm_trainer.models.embeddings import apply_rotary
from llm_trainer.models.layers import RMSNorm

CHUNK = 128
"""Tokens whose pairs are all computed."""


def parallel_retention(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, starts: Tensor | None = None
) -> Tensor:
    """``sum over s <= t of decay ** (t - s) (q_t . k_s) v_s``, all pairs at once.

    Args:
        query, key, value: (batch, heads, seq, head_dim).
        decay: (heads,), below 1.
        starts: (batch, seq), the index at which each token's text begins; None: every row is one text.

    Returns:
        (batch, heads, seq, head_dim).
    """
    weights = (query @ key.transpose(-2, -1)) * _decays(query.shape[2], decay)
    if starts is not None:
        weights = weights * (starts.unsqueeze(2) == starts.unsqueeze(1)).unsqueeze(1)
    return weights @ value


def recurrent_retention(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, starts: Tensor | None = None
) -> Tensor:
    """The same with a state, (head_dim, head_dim) for each head: ``S = decay S + k_t v_t^T``, then ``q_t S``."""
    batch, heads, seq, width = query.shape
    state = query.new_zeros(batch, heads, width, width)
    results = []
    for t in range(seq):
        kept = decay.view(1, heads, 1, 1).expand(batch, heads, 1, 1)
        if starts is not None:
            kept = kept * (starts[:, t] < t).view(batch, 1, 1, 1)
        state = kept * state + key[:, :, t].unsqueeze(-1) * value[:, :, t].unsqueeze(-2)
        results.append((query[:, :, t].unsqueeze(-2) @ state).squeeze(-2))
    return torch.stack(results, dim=2)


def chunked_retention(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, starts: Tensor | None = None, chunk: int = CHUNK
) -> Tensor:
    """The same with all pairs inside chunks and a state between them: time in proportion to the length."""
    batch, heads, seq, width = query.shape
    state = query.new_zeros(batch, heads, width, width)
    results = []
    for begin in range(0, seq, chunk):
        end = min(begin + chunk, seq)
        q, k, v = (x[:, :, begin:end] for x in (query, key, value))
        here = None if starts is None else starts[:, begin:end]
        steps = torch.arange(end - begin, device=query.device)
        since = decay.view(-1, 1, 1) ** (steps + 1).view(-1, 1)  # (heads, chunk, 1): from the chunk's beginning to t
        until = decay.view(-1, 1, 1) ** (end - begin - 1 - steps).view(-1, 1)  # from t to the chunk's end
        carried = q @ state * since
        passed_on, kept = k * until, decay.view(-1, 1, 1) ** (end - begin)
        if here is not None:
            # The state is of the text that reaches into this chunk, and hands on that which reaches out of it.
            carried = carried * (here < begin).view(batch, 1, -1, 1)
            last = here[:, -1:]
            passed_on = passed_on * (begin + steps >= last).view(batch, 1, -1, 1)
            kept = kept * (last < begin).view(batch, 1, 1, 1)
        results.append(parallel_retention(q, k, v, decay, here) + carried)
        state = kept * state + passed_on.transpose(-2, -1) @ v
    return torch.cat(results, dim=2)


def _decays(seq: int, decay: Tensor) -> Tensor:
    """``decay ** (t - s)`` below and on the diagonal, 0 above. (heads, seq, seq)."""
    steps = torch.arange(seq, device=decay.device)
    distance = steps.unsqueeze(1) - steps
    return (decay.view(-1, 1, 1) ** distance.clamp(min=0)) * (distance >= 0)


def document_starts(context: AttentionContext, seq: int) -> Tensor | None:
    """The index at which each token's text begins, (batch, seq); None if every row is one text without padding."""
    rules = context.visibility
    if rules is None or (rules.starts is None and rules.attention_mask is None):
        return None
    return torch.arange(seq, device=rules.device) - rules.places()


@register("attention", "retention")
class Retention(nn.Module):
    """Multi-scale retention: every head forgets at its own pace, is normalised by itself, and is gated.

    Args:
        config: its ``d_model``, ``n_heads``, ``head_dim``, ``norm_eps`` and ``residual_dropout`` count. Rotary
            positions come with the context.
        layer_index: not used.
    """

    decay: Tensor

    def __init__(self, config: ModelConfig, layer_index: int) -> None:
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        width = config.n_heads * config.head_dim
        self.q_proj = nn.Linear(config.d_model, width, bias=False)
        self.k_proj = nn.Linear(config.d_model, width, bias=False)
        self.v_proj = nn.Linear(config.d_model, width, bias=False)
        self.gate_proj = nn.Linear(config.d_model, width, bias=False)
        self.o_proj = nn.Linear(width, config.d_model, bias=False)
        self.head_norm = RMSNorm(config.head_dim, eps=config.norm_eps)
        # From 1 - 1/32 to 1 - 1/512, evenly in the exponent (section 3.1 of the paper).
        exponents = torch.linspace(math.log(1 / 32), math.log(1 / 512), config.n_heads)
        self.register_buffer("decay", 1 - torch.exp(exponents), persistent=False)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """(batch, seq, d_model) -> same shape."""
        query, key, value = (self._heads(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        if context.rotary is not None:
            query, key = apply_rotary(query, context.rotary), apply_rotary(key, context.rotary)
        with torch.autocast(x.device.type, enabled=False):
            # Sums over the whole text, without a softmax to bound them: in float32.
            query = query.float() / math.sqrt(self.head_dim)
            starts = document_starts(context, x.shape[1])
            mixed = chunked_retention(query, key.float(), value.float(), self.decay, starts)
        mixed = self.head_norm(mixed.to(value.dtype)).transpose(1, 2).flatten(2)  # (batch, seq, width)
        return self.dropout(self.o_proj(F.silu(self.gate_proj(x)) * mixed))

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, seq, width) -> (batch, heads, seq, head_dim)."""
        return x.view(x.shape[0], x.shape[1], self.n_heads, self.head_dim).transpose(1, 2)
