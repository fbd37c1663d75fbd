"""How every family of models takes positions in: what it has of them, where they are added, how long a text may be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from llm_trainer.common.errors import UserError
from llm_trainer.models.context import AttentionContext, build_context, compute_dtype
from llm_trainer.models.embeddings import (
    AlibiSlopes,
    LearnedPositionalEmbedding,
    PositionalEncoding,
    RotaryEmbedding,
)
from llm_trainer.models.patterns import model_pattern
from llm_trainer.models.relative_positions import RelativePositionBias
from llm_trainer.models.rope_scaling import rope_scaling

if TYPE_CHECKING:
    from llm_trainer.config import ModelConfig
    from llm_trainer.models.kv_cache import KVCache


class HasPositions:
    """What a model or a stack of blocks with positions inherits beside ``nn.Module``; it has a ``config``."""

    config: ModelConfig
    position_embedding: nn.Module | None
    """Added to the embeddings: learned or sinusoidal."""
    rotary: RotaryEmbedding | None
    """Turns queries and keys."""
    alibi: AlibiSlopes | None
    relative: RelativePositionBias | None
    """Added to the scores."""
    causal: bool
    """Whether position i sees only positions 0..i."""

    def add_positions(self, config: ModelConfig, *, causal: bool) -> None:
        """Make what ``config.position`` names.

        Args:
            config: the shape.
            causal: whether position i sees only positions 0..i.
        """
        self.position_embedding, self.rotary, self.alibi, self.relative = None, None, None, None
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
        self.causal = causal

    def place(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Embedded tokens, (batch, seq, d_model), with what is added to them for their positions: same shape."""
        if self.config.position == "sinusoidal":
            # Vaswani et al., section 3.4: without it the encoding, of size 1, would drown the embeddings.
            x = x * math.sqrt(self.config.d_model)
        return x if self.position_embedding is None else self.position_embedding(x, positions)

    def context(
        self,
        x: Tensor,
        positions: Tensor | None,
        *,
        seq: int | None = None,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> AttentionContext:
        """Who sees whom in this pass, once for all blocks: :func:`build_context` for ``x``, (batch, seq, d_model), or
        for ``seq`` tokens of which ``x`` are the newest."""
        return build_context(
            seq or x.shape[1],
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
