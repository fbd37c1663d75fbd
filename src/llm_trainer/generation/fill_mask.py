"""What an encoder does instead of continuing a text: say which tokens fit its gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from llm_trainer.common.errors import UserError
from llm_trainer.generation.decoder import evaluating
from llm_trainer.models.encoder import EncoderLM
from llm_trainer.tokenizer.base import Tokenizer
from llm_trainer.tokenizer.framing import MASK_TOKEN, document_ids, mask_token_id


@dataclass(frozen=True)
class Filling:
    """One token for one gap."""

    token_id: int
    text: str
    """The token as text, with the space before a word."""
    probability: float


@torch.no_grad()
def fill_mask(model: Any, tokenizer: Tokenizer, text: str, *, top_k: int = 5) -> list[list[Filling]]:
    """The likeliest tokens at each ``[MASK]`` of a text, each gap on its own.

    Args:
        model: an :class:`EncoderLM`.
        tokenizer: the one that it was trained with.
        text: with at least one ``[MASK]``.
        top_k: how many tokens for each gap, at least 1; all ordinary ones if there are not so many.

    Returns:
        For each gap, in order, the likeliest tokens, the best first. Special tokens are never among them.

    Raises:
        UserError: no gap, a model that fills none, no tokens wanted, or a text that is too long.
    """
    if top_k < 1:
        raise UserError(f"top_k must be at least 1, not {top_k}", hint="it is how many tokens are offered for a gap")
    if not isinstance(model, EncoderLM):
        raise UserError("only an encoder with an lm head fills gaps", hint="train one: model.family: encoder")
    mask_id = mask_token_id(tokenizer)
    ids = document_ids(tokenizer, tokenizer.encode(text, allowed_special={MASK_TOKEN}))
    gaps = [index for index, token in enumerate(ids) if token == mask_id]
    if not gaps:
        raise UserError(f"the text has no {MASK_TOKEN} to fill", hint=f"for example: The capital is {MASK_TOKEN}.")
    device = next(model.parameters()).device
    with evaluating(model):
        hidden = model.hidden_states(torch.tensor([ids], device=device))  # (1, seq, d_model)
        logits = model.logits_from(hidden[0, gaps]).float()  # (gaps, vocab)
    special = list(tokenizer.special_tokens.values())
    logits[:, special] = float("-inf")
    logits[:, tokenizer.vocab_size :] = float("-inf")
    best = logits.softmax(dim=-1).topk(min(top_k, tokenizer.vocab_size - len(special)), dim=-1)
    return [
        [Filling(token, tokenizer.token_bytes(token).decode("utf-8", "replace"), p) for token, p in zip(tokens, odds)]
        for tokens, odds in zip(best.indices.tolist(), best.values.tolist())
    ]


def filled_text(text: str, fillings: list[list[Filling]]) -> str:
    """The text with the likeliest token in each gap."""
    parts = text.split(MASK_TOKEN)
    result = parts[0]
    for part, best in zip(parts[1:], fillings, strict=True):
        word = best[0].text
        if word.startswith(" "):
            # Its space takes the place of the one that the person wrote; at the beginning there is none.
            result = result.rstrip(" ")
            word = word if result else word[1:]
        result += word + part
    return result
