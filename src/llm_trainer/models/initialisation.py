"""The numbers that a model starts with."""

from __future__ import annotations

import math

from torch import nn

from llm_trainer.config import ModelConfig
from llm_trainer.models.grouped import ExpertLinear
from llm_trainer.models.layers import LayerNorm, RMSNorm
from llm_trainer.models.shortcuts import ResidualShortcuts
from llm_trainer.models.tables import BigramEmbedding

RESIDUAL_OUTPUTS = ("o_proj", "down_proj")
GATES = ("value_gate",)


def draw_weights(model: nn.Module, config: ModelConfig) -> None:
    """Fresh weights as in GPT-2: normal with ``init_std``, biases 0.

    The layers that write into the residual stream get ``init_std / sqrt(2 n_layers)``: the stream is a sum of
    2 n_layers of them, and its variance should not grow with depth (Radford et al. 2019, section 2.3). Or they start
    at 0, with ``zero_init_projections`` (Zhang et al. 2019, "Fixup", https://arxiv.org/abs/1901.09321).

    Args:
        model: changed in place; layers are known by type, and by the last part of their name. A tied output layer has
            no weights of its own.
        config: the model's.
    """
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, ExpertLinear)):
            if not (name == "lm_head" and config.tie_embeddings):
                nn.init.normal_(module.weight, std=_linear_std(name, config))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            unit = config.scale_logits and name.endswith("embed_tokens")
            nn.init.normal_(module.weight, std=1.0 if unit else config.init_std)
        elif isinstance(module, (RMSNorm, LayerNorm, ResidualShortcuts)):
            module.reset_parameters()
    for module in model.modules():
        if isinstance(module, BigramEmbedding):
            nn.init.zeros_(module.table.weight)


def _linear_std(name: str, config: ModelConfig) -> float:
    last = name.rpartition(".")[2]
    if last in GATES:
        return 0.0
    if last in RESIDUAL_OUTPUTS:
        return 0.0 if config.zero_init_projections else config.init_std / math.sqrt(2 * config.n_layers)
    if name == "lm_head" and config.head_init_std is not None:
        return config.head_init_std
    return config.init_std
