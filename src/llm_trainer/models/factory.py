"""The class that a configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llm_trainer.config import ModelConfig
from llm_trainer.models.base import BaseLanguageModel, read_config
from llm_trainer.models.encoder import EncoderLM
from llm_trainer.models.heads import SequenceClassifier, TokenClassifier
from llm_trainer.models.seq2seq import EncoderDecoderLM
from llm_trainer.models.transformer import TransformerLM

ENCODERS: Mapping[str, type[BaseLanguageModel]] = {
    "lm": EncoderLM,
    "sequence": SequenceClassifier,
    "tokens": TokenClassifier,
}


def model_class(config: ModelConfig) -> type[BaseLanguageModel]:
    """The class of a family, and of an encoder's head."""
    if config.family == "encoder":
        return ENCODERS[config.head]
    return EncoderDecoderLM if config.family == "encoder_decoder" else TransformerLM


def build_model(config: ModelConfig) -> BaseLanguageModel:
    """A model with fresh weights.

    Raises:
        ConfigError: the configuration contradicts itself, or names a component that is not registered.

    Example:
        >>> shape = ModelConfig(family="encoder", vocab_size=100, d_model=32, n_heads=4, n_layers=2)
        >>> type(build_model(shape)).__name__
        'EncoderLM'
    """
    return model_class(config)(config)


def load_pretrained(
    folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> BaseLanguageModel:
    """Load a folder that ``save_pretrained`` wrote, ours or transformers', as the class that its config.json says.

    Raises:
        CheckpointError: this is no model's folder, or its weights do not fit its configuration.
        ConfigError: transformers has a model here that we have not.
        CorruptionError: the weights are not whole.
    """
    folder = Path(folder)
    return _class_of(read_config(folder)).from_pretrained(folder, device=device, dtype=dtype)


def _class_of(values: Mapping[str, Any]) -> type[BaseLanguageModel]:
    # Imported here because interop builds these classes.
    from llm_trainer.models.interop import config_from_hf

    ours = "model_type" not in values
    return model_class(ModelConfig.from_dict(values) if ours else config_from_hf(values))
