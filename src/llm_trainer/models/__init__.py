"""Models: a decoder-only transformer built from parts that can be read, replaced and proven equal to the references.

Nothing here knows of devices, parallelism or training; those are applied from outside, by module name.
"""

from llm_trainer.models.base import BaseLanguageModel, LMOutput
from llm_trainer.models.kv_cache import KVCache
from llm_trainer.models.presets import PRESETS, preset
from llm_trainer.models.registry import lookup, register, registered
from llm_trainer.models.transformer import TransformerLM

__all__ = [
    "PRESETS",
    "BaseLanguageModel",
    "KVCache",
    "LMOutput",
    "TransformerLM",
    "lookup",
    "preset",
    "register",
    "registered",
]
