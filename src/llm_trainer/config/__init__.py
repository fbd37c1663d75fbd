"""Configuration: strict, typed sections that need no torch."""

from llm_trainer.config.base import Settings
from llm_trainer.config.data import DataConfig
from llm_trainer.config.generation import GenerationConfig
from llm_trainer.config.loading import LoadedConfig, load_config, save_config
from llm_trainer.config.model import ModelConfig
from llm_trainer.config.run import RunConfig
from llm_trainer.config.tokenizer import TokenizerConfig
from llm_trainer.config.training import SFTConfig, TrainingConfig

__all__ = [
    "DataConfig",
    "GenerationConfig",
    "LoadedConfig",
    "ModelConfig",
    "RunConfig",
    "SFTConfig",
    "Settings",
    "TokenizerConfig",
    "TrainingConfig",
    "load_config",
    "save_config",
]
