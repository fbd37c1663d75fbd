"""A trained model as a judge of text: bits per byte, by which a corpus pipeline sorts documents into buckets."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from llm_trainer.common.errors import UserError
from llm_trainer.corpus.filters.perplexity import set_scorer_factory
from llm_trainer.evaluation.held_out import evaluate_documents
from llm_trainer.models import TransformerLM
from llm_trainer.workflows.load import load_model


def install_scorers() -> None:
    """Let the filter ``perplexity`` of a pipeline use models of ours, in this process."""
    set_scorer_factory(open_scorer)


def open_scorer(model: str) -> Callable[[Sequence[str]], list[float]]:
    """A function from texts to their bits per byte under a model.

    Every text is scored alone, so that its figure does not depend on its neighbours in a batch.

    Args:
        model: folder of a run, or of a model.

    Raises:
        UserError: there is no such model, or it does not predict the next token.
    """
    if not Path(model).is_dir():
        raise UserError(f"there is no model at {model}", hint="check the filter's `model`")
    loaded = load_model(model)
    if not isinstance(loaded.model, TransformerLM):
        raise UserError(f"{model} holds a model that does not predict the next token", hint="name a decoder's run")
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # there are as many workers as cores already

    def score(texts: Sequence[str]) -> list[float]:
        return [evaluate_documents(loaded.model, loaded.tokenizer, [text]).bits_per_byte for text in texts]

    return score
