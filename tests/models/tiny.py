"""Models small enough to compare number by number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm_trainer.config import ModelConfig
from llm_trainer.models import TransformerLM

POSITIONS = ("rope", "learned", "sinusoidal", "alibi", "none")
VOCAB = 61
SMALL_MODEL_OPTIONS: dict[str, Any] = {
    "embedding_norm": True,
    "bigram_embedding": 97,
    "value_embeddings": True,
    "residual_shortcuts": True,
    "logit_softcap": 5.0,
}
"""Everything that is off by default and changes the forward pass."""


def tiny_config(**values: Any) -> ModelConfig:
    """Two layers of width 32, four heads. Weights are 5 times larger than usual, so that differences show."""
    defaults = {"vocab_size": VOCAB, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 32, "init_std": 0.1}
    return ModelConfig(**{**defaults, **values})


def tiny_model(**values: Any) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(tiny_config(**values)).eval()


def enlivened(model: TransformerLM) -> TransformerLM:
    """The same model with what starts at zero or one drawn at random, as if it had been trained."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.min() == parameter.max():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def token_ids(batch: int = 2, seq: int = 12, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCAB, (batch, seq), generator=torch.Generator().manual_seed(seed))
