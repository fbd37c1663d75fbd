"""Lookups by token beyond the token embedding: cheap in arithmetic, because a lookup multiplies nothing, and worth most
where a model is small. Both are options, and off by default."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_trainer.config import ModelConfig

NO_TOKEN = -1
"""Stands for the predecessor of a text's first token."""
# Large and odd; below 2^32, so that the product with a token id stays far from 2^63.
PREVIOUS_FACTOR = 2654435761  # 2^32 / golden ratio (Knuth, The Art of Computer Programming 3, section 6.4)
TOKEN_FACTOR = 2246822519
GATE_WIDTH = 12


class BigramEmbedding(nn.Module):
    """A vector for each pair of a token and the one before it; pairs that hash alike share one.

    A first layer spends much of its work on finding out which token came before. This table answers at once. It starts
    at zero, so that a pair that was never seen changes nothing (the "bigram hash embedding" of
    https://github.com/KellerJordan/modded-nanogpt, with five rows per token of the vocabulary there).

    Args:
        rows: size of the table.
        d_model: width.
    """

    def __init__(self, rows: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, d_model)

    def forward(self, input_ids: Tensor, previous: Tensor) -> Tensor:
        """Look up pairs.

        Args:
            input_ids: (batch, seq).
            previous: (batch, seq), the token before each; :data:`NO_TOKEN` where a text begins.

        Returns:
            (batch, seq, d_model).
        """
        result: Tensor = self.table(hash_bigrams(previous, input_ids, self.table.num_embeddings))
        return result


def hash_bigrams(previous: Tensor, tokens: Tensor, rows: int) -> Tensor:
    """The row of each pair, in 0..rows-1. With as many rows as tokens or more, and a power of two of them, no two
    successors of one token share a row.

    Args:
        previous: int64, from :data:`NO_TOKEN`.
        tokens: int64, from 0.
        rows: size of the table.
    """
    return ((previous + 1) * PREVIOUS_FACTOR ^ tokens * TOKEN_FACTOR) % rows


def previous_tokens(
    input_ids: Tensor, positions: Tensor | None, document_ids: Tensor | None, attention_mask: Tensor | None
) -> Tensor:
    """The token before each token of the same text, without a cache (:meth:`KVCache.previous_tokens` is its twin).

    Args:
        input_ids: (batch, seq).
        positions: (batch or 1, seq), or None for 0, 1, 2...; a text begins wherever they do not go up by one.
        document_ids: (batch, seq), or None; a text begins wherever they change.
        attention_mask: (batch, seq), or None; a text begins after padding.

    Returns:
        (batch, seq); :data:`NO_TOKEN` where a text begins.
    """
    previous = input_ids[:, :-1]
    if positions is not None:
        previous = previous.masked_fill(positions[:, 1:] != positions[:, :-1] + 1, NO_TOKEN)
    if document_ids is not None:
        previous = previous.masked_fill(document_ids[:, 1:] != document_ids[:, :-1], NO_TOKEN)
    if attention_mask is not None:
        previous = previous.masked_fill(attention_mask[:, :-1] == 0, NO_TOKEN)
    return F.pad(previous, (1, 0), value=NO_TOKEN)


class ValueEmbedding(nn.Module):
    """What a token always has to say, whatever its context: a value looked up by its id, for one layer's attention.

    How much of it each head takes is a gate on a few channels of the hidden state, from 0 to 3 and 1.5 at the start
    (after https://github.com/karpathy/nanochat; value embeddings are from modded-nanogpt).

    Args:
        config: its ``vocab_size``, ``d_model``, ``kv_heads`` and ``head_dim`` count.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kv_heads = config.kv_heads
        self.table = nn.Embedding(config.vocab_size, config.kv_heads * config.head_dim)
        self.value_gate = nn.Linear(min(GATE_WIDTH, config.d_model), config.kv_heads, bias=False)

    def forward(self, x: Tensor, token_ids: Tensor) -> Tensor:
        """What to add to the values.

        Args:
            x: (batch, seq, d_model), what the values are projected from.
            token_ids: (batch, seq).

        Returns:
            (batch, seq, kv_heads * head_dim).
        """
        gate = 3 * torch.sigmoid(self.value_gate(x[..., : self.value_gate.in_features]))  # (batch, seq, kv_heads)
        values: Tensor = self.table(token_ids).unflatten(-1, (self.kv_heads, -1))  # (batch, seq, kv_heads, head_dim)
        return (gate.unsqueeze(-1) * values).flatten(-2)
