"""Evaluation: what a trained model can do, with figures that can be compared."""

from llm_trainer.evaluation.generation_quality import generation_quality
from llm_trainer.evaluation.held_out import HeldOutResult, compressor_baselines, evaluate_documents

__all__ = ["HeldOutResult", "compressor_baselines", "evaluate_documents", "generation_quality"]
