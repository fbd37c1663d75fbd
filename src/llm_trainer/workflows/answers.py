"""What an encoder says about a text, for people: words for its gaps, or labels."""

from __future__ import annotations

import torch

from llm_trainer.generation import fill_mask
from llm_trainer.generation.decoder import evaluating
from llm_trainer.generation.fill_mask import filled_text
from llm_trainer.models import BaseLanguageModel
from llm_trainer.models.heads import SequenceClassifier, TokenClassifier
from llm_trainer.tokenizer import Tokenizer
from llm_trainer.tokenizer.framing import document_ids
from llm_trainer.training.examples import word_tokens


def encoder_answer(model: BaseLanguageModel, tokenizer: Tokenizer, text: str) -> str:
    """The answer of an encoder with any head: lines of text.

    Raises:
        UserError: an lm head and no gap in the text, or too long a text.
    """
    if isinstance(model, SequenceClassifier):
        return "\n".join(f"{name}  {share:.1%}" for name, share in classify(model, tokenizer, text))
    if isinstance(model, TokenClassifier):
        return "\n".join(f"{word}  {name}" for word, name in tag(model, tokenizer, text.split()))
    fillings = fill_mask(model, tokenizer, text)
    lines = [filled_text(text, fillings)]
    for number, best in enumerate(fillings, start=1):
        words = ", ".join(f"{filling.text.strip() or filling.text!r} {filling.probability:.1%}" for filling in best)
        lines.append(f"  gap {number}: {words}")
    return "\n".join(lines)


@torch.no_grad()
def classify(model: SequenceClassifier, tokenizer: Tokenizer, text: str) -> list[tuple[str, float]]:
    """The labels of a text and their probabilities, the likeliest first."""
    ids = document_ids(tokenizer, tokenizer.encode(text), model.config.max_seq_len)
    with evaluating(model):
        logits = model(torch.tensor([ids], device=model.classifier.weight.device)).logits[0]
    shares = logits.float().softmax(dim=-1).tolist()
    return sorted(zip(model.label_names, shares), key=lambda pair: -pair[1])


@torch.no_grad()
def tag(model: TokenClassifier, tokenizer: Tokenizer, words: list[str]) -> list[tuple[str, str]]:
    """Each word and its label, that of its first token, as in training; without words beyond the model's context."""
    pieces = word_tokens(tokenizer, words)
    ids = document_ids(tokenizer, [token for word in pieces for token in word], model.config.max_seq_len)
    with evaluating(model):
        best = model(torch.tensor([ids], device=model.classifier.weight.device)).logits[0].argmax(dim=-1).tolist()
    result, place = [], 0 if tokenizer.bos_token_id is None else 1
    end = len(ids) - (0 if tokenizer.eos_token_id is None else 1)
    for word, tokens in zip(words, pieces):
        if tokens and place < end:
            result.append((word, model.label_names[best[place]]))
        place += len(tokens)
    return result
