"""``from llm_trainer.utils.generation import TextGenerator, GenerationConfig``: the documented import path."""

from llm_trainer.config import GenerationConfig
from llm_trainer.generation import TextGenerator, generate_ids

__all__ = ["GenerationConfig", "TextGenerator", "generate_ids"]
