"""Models: decoders, encoders and encoder-decoders, built from parts that can be read, replaced and proven equal to the
references. :func:`build_model` makes the one that a configuration asks for.

Nothing here knows of devices, parallelism or training; those are applied from outside, by module name.
"""

from llm_trainer.models.base import BaseLanguageModel, LMOutput
from llm_trainer.models.encoder import EncoderLM
from llm_trainer.models.factory import build_model, load_pretrained
from llm_trainer.models.heads import SequenceClassifier, TokenClassifier
from llm_trainer.models.kv_cache import KVCache
from llm_trainer.models.presets import PRESETS, preset
from llm_trainer.models.registry import lookup, register, registered
from llm_trainer.models.seq2seq import EncoderDecoderLM
from llm_trainer.models.transformer import TransformerLM

__all__ = [
    "PRESETS",
    "BaseLanguageModel",
    "EncoderDecoderLM",
    "EncoderLM",
    "KVCache",
    "LMOutput",
    "SequenceClassifier",
    "TokenClassifier",
    "TransformerLM",
    "build_model",
    "load_pretrained",
    "lookup",
    "preset",
    "register",
    "registered",
]
