"""A transformer block: attention, then a feed-forward network, each around a residual connection."""

from __future__ import annotations

from torch import Tensor, nn

from llm_trainer.config import ModelConfig
from llm_trainer.models.context import AttentionContext
from llm_trainer.models.layers import build_feed_forward, build_norm
from llm_trainer.models.registry import lookup, register, supports_cache


@register("block", "transformer")
class TransformerBlock(nn.Module):
    """Pre-norm: ``x + f(norm(x))``. Post-norm: ``norm(x + f(x))``, as in the 2017 transformer.

    In a pre-norm block the residual stream is never normalised itself, so gradients reach the first layer undiminished
    and no warm-up is needed (Xiong et al. 2020, https://arxiv.org/abs/2002.04745).

    Args:
        config: names the components.
        layer_index: which layer this is.
    """

    def __init__(self, config: ModelConfig, layer_index: int) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention_norm = build_norm(config)
        self.attention = lookup("attention", config.attention)(config, layer_index)
        self.ffn_norm = build_norm(config)
        self.feed_forward = build_feed_forward(config, layer_index)

    @property
    def supports_cache(self) -> bool:
        """See :func:`llm_trainer.models.registry.supports_cache`."""
        return supports_cache(self.attention)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """(batch, seq, d_model) -> same shape."""
        if self.pre_norm:
            x = x + self.attention(self.attention_norm(x), context)
            x = x + self.feed_forward(self.ffn_norm(x))
        else:
            x = self.attention_norm(x + self.attention(x, context))
            x = self.ffn_norm(x + self.feed_forward(x))
        return x
