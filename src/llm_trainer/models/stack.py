"""Blocks between embedded tokens and a last normalisation: an encoder, or either half of an encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from llm_trainer.config import ModelConfig
from llm_trainer.models.layers import build_norm
from llm_trainer.models.positions import HasPositions

BuildBlock = Callable[[ModelConfig, int], nn.Module]


class Stack(HasPositions, nn.Module):
    """Positions, blocks and the last normalisation.

    Args:
        config: the shape.
        layers: how many blocks.
        build_block: makes one, from the configuration and its number.
        causal: whether position i sees only positions 0..i.
    """

    def __init__(self, config: ModelConfig, layers: int, build_block: BuildBlock, *, causal: bool) -> None:
        super().__init__()
        self.config = config
        self.add_positions(config, causal=causal)
        self.embedding_norm = build_norm(config) if config.embedding_norm else None
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(build_block(config, index) for index in range(layers))
        # A post-norm block ends with a normalisation already.
        self.final_norm = build_norm(config) if config.pre_norm else nn.Identity()

    def enter(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Embedded tokens, (batch, seq, d_model), with their positions, as the first block reads them."""
        x = self.place(x, positions)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        result: Tensor = self.embedding_dropout(x)
        return result


def positions_of(attention_mask: Tensor | None) -> Tensor | None:
    """Positions counted from the first token that is not padding, (batch, seq); None without padding: 0, 1, 2..."""
    return None if attention_mask is None else (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
