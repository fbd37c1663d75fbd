"""From a trained model to text: sampling, beam search, stop strings, streams."""

from llm_trainer.config import GenerationConfig
from llm_trainer.generation.beam import Hypothesis, beam_search
from llm_trainer.generation.fill_mask import Filling, fill_mask
from llm_trainer.generation.generator import TextGenerator, generate_ids
from llm_trainer.generation.loop import TokenLoop
from llm_trainer.generation.sampling import filter_logits, sample

__all__ = [
    "Filling",
    "GenerationConfig",
    "Hypothesis",
    "TextGenerator",
    "TokenLoop",
    "beam_search",
    "fill_mask",
    "filter_logits",
    "generate_ids",
    "sample",
]
