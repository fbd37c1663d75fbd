"""Blocks between embedded tokens and a last normalisation: an encoder, or either half of an encoder-decoder."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from llm_trainer.common.errors import UserError
from llm_trainer.config import ModelConfig
from llm_trainer.models.context import AttentionContext, build_context
from llm_trainer.models.embeddings import (
    AlibiSlopes,
    LearnedPositionalEmbedding,
    PositionalEncoding,
    RotaryEmbedding,
)
from llm_trainer.models.kv_cache import KVCache
from llm_trainer.models.layers import build_norm
from llm_trainer.models.patterns import model_pattern
from llm_trainer.models.relative_positions import RelativePositionBias
from llm_trainer.models.rope_scaling import rope_scaling

BuildBlock = Callable[[ModelConfig, int], nn.Module]


class Stack(nn.Module):
    """Positions, blocks and the last normalisation.

    Args:
        config: the shape.
        layers: how many blocks.
        build_block: makes one, from the configuration and its number.
        causal: whether position i sees only positions 0..i.
    """

    def __init__(self, config: ModelConfig, layers: int, build_block: BuildBlock, *, causal: bool) -> None:
        super().__init__()
        self.config, self.causal = config, causal
        self.position_embedding: nn.Module | None = None
        self.rotary: RotaryEmbedding | None = None
        self.alibi: AlibiSlopes | None = None
        self.relative: RelativePositionBias | None = None
        if config.position == "learned":
            self.position_embedding = LearnedPositionalEmbedding(config.d_model, config.max_seq_len)
        elif config.position == "sinusoidal":
            self.position_embedding = PositionalEncoding(config.d_model, config.max_seq_len)
        elif config.position == "rope":
            self.rotary = RotaryEmbedding(config.head_dim, config.max_seq_len, config.rope_theta, rope_scaling(config))
        elif config.position == "alibi":
            self.alibi = AlibiSlopes(config.n_heads)
        elif config.position == "relative":
            self.relative = RelativePositionBias(
                config.n_heads, config.relative_buckets, config.relative_max_distance, bidirectional=not causal
            )
        self.pattern = model_pattern(config)
        self.embedding_norm = build_norm(config) if config.embedding_norm else None
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(build_block(config, index) for index in range(layers))
        # A post-norm block ends with a normalisation already.
        self.final_norm = build_norm(config) if config.pre_norm else nn.Identity()

    def enter(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Embedded tokens, (batch, seq, d_model), with their positions, as the first block reads them."""
        if self.config.position == "sinusoidal":
            # Vaswani et al., section 3.4: without it the encoding, of size 1, would drown the embeddings.
            x = x * math.sqrt(self.config.d_model)
        if self.position_embedding is not None:
            x = self.position_embedding(x, positions)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        result: Tensor = self.embedding_dropout(x)
        return result

    def context(
        self,
        x: Tensor,
        positions: Tensor | None,
        *,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> AttentionContext:
        """Who sees whom in this pass, once for all blocks: :func:`build_context` for ``x``, (batch, seq, d_model)."""
        return build_context(
            x.shape[1],
            positions,
            document_ids=document_ids,
            attention_mask=attention_mask,
            cache=cache,
            rotary=self.rotary,
            slopes=None if self.alibi is None else self.alibi.slopes,
            dtype=compute_dtype(x),
            device=x.device,
            causal=self.causal,
            relative=self.relative,
            pattern=self.pattern,
            flex=self.config.attention_backend == "flex",
        )

    def check_length(self, length: int) -> None:
        """Biases by distance, and no positions at all, have no table that could end.

        Raises:
            UserError: more tokens than there are positions.
        """
        if length > self.config.max_seq_len and self.config.position in ("rope", "learned", "sinusoidal"):
            raise UserError(
                f"{length} tokens are more than the model's max_seq_len of {self.config.max_seq_len}",
                hint="use shorter sequences, or train a model with a larger max_seq_len",
            )


def embed(table: nn.Embedding, input_ids: Tensor) -> Tensor:
    """Look token ids up, (batch, seq) -> (batch, seq, d_model).

    Raises:
        UserError: an id is outside the vocabulary.
    """
    try:
        result: Tensor = table(input_ids)
    except IndexError:
        raise UserError(
            f"token ids from {int(input_ids.min())} to {int(input_ids.max())} do not fit a vocabulary of "
            f"{table.num_embeddings} tokens",
            hint="the tokenizer and the model do not belong together; use the one in the model's run folder",
        ) from None
    return result


def padding_or_none(attention_mask: Tensor | None) -> Tensor | None:
    """None where nothing is padded, which is the fast path. On a GPU, looking would cost a wait."""
    if attention_mask is not None and attention_mask.device.type == "cpu" and bool(attention_mask.all()):
        return None
    return attention_mask


def positions_of(attention_mask: Tensor | None) -> Tensor | None:
    """Positions counted from the first token that is not padding, (batch, seq); None without padding: 0, 1, 2..."""
    return None if attention_mask is None else (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that queries will have."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
