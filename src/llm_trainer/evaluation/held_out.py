"""How well a model predicts text it has not seen, in bits per byte, next to what a compressor reaches.

Perplexity depends on the tokenizer; bits per byte does not, and it is the same unit that a compressor is measured in:
a language model is a compressor whose program is large (Delétang et al. 2023, https://arxiv.org/abs/2309.10668). Every
byte of the text is predicted exactly once, with the end of each document, so nothing flatters the figure.
"""

from __future__ import annotations

import gzip
import lzma
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from llm_trainer.common.errors import DataError
from llm_trainer.models import BaseLanguageModel
from llm_trainer.training.objectives import IGNORE_INDEX, CausalLM

Window = tuple[list[int], int]
"""Token ids, and how many of the first ones are only context."""


@dataclass(frozen=True)
class HeldOutResult:
    """What :func:`evaluate_documents` found."""

    loss: float
    """Nats per token."""
    perplexity: float
    """exp(loss); depends on the tokenizer."""
    bits_per_byte: float
    """All nats in bits, over the bytes of the text."""
    documents: int
    tokens: int
    bytes: int

    def to_dict(self) -> dict[str, float]:
        """For evaluation.json."""
        return asdict(self)


def evaluate_documents(
    model: BaseLanguageModel,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    batch_tokens: int = 8192,
    context: int | None = None,
) -> HeldOutResult:
    """Predict every byte of ``texts`` once.

    Documents longer than the model's context are read in overlapping windows: each token has at least ``context``
    tokens before it (fewer only at the start of its document).

    Args:
        model: in any mode; its mode is kept.
        tokenizer: the model's.
        texts: whole documents.
        batch_tokens: tokens per forward pass.
        context: overlap of windows, in tokens; half the model's context when left out.

    Raises:
        DataError: there is no text.
    """
    length = model.config.max_seq_len
    context = length // 2 if context is None else min(context, length - 1)
    device = next(model.parameters()).device
    counts = {"documents": 0, "bytes": 0}
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0
    try:
        windows = _windows(tokenizer, texts, length, max(1, context), counts)
        for input_ids, labels in _batches(windows, batch_tokens):
            with torch.no_grad():
                terms = CausalLM().loss(model, {"input_ids": input_ids.to(device), "labels": labels.to(device)})
            total += float(terms.total)
            tokens += int(terms.count)
    finally:
        model.train(was_training)
    if not tokens:
        raise DataError("there is no text to evaluate on")
    loss = total / tokens
    return HeldOutResult(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=total / math.log(2) / max(1, counts["bytes"]),
        documents=counts["documents"],
        tokens=tokens,
        bytes=counts["bytes"],
    )


def compressor_baselines(texts: Iterable[str]) -> dict[str, float]:
    """Bits per byte of general compressors over all texts joined: the bar that a model should pass."""
    data = "\n".join(texts).encode("utf-8")
    if not data:
        return {}
    return {
        "xz -9e": 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data),
        "gzip -9": 8 * len(gzip.compress(data, compresslevel=9)) / len(data),
    }


def _windows(
    tokenizer: Any, texts: Iterable[str], length: int, context: int, counts: dict[str, int]
) -> Iterator[Window]:
    """Cut ``[bos] + document + [eos]`` into windows of at most ``length`` tokens."""
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer.encode(text), tokenizer.eos_token_id]
        counts["documents"] += 1
        counts["bytes"] += len(text.encode("utf-8"))
        yield ids[:length], 1
        start = length
        while start < len(ids):
            first = start - context
            yield ids[first : first + length], context
            start = first + length


def _batches(windows: Iterator[Window], batch_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Group windows of similar length, pad on the right: (batch, seq) ids and labels."""
    ordered = sorted(windows, key=lambda window: len(window[0]))
    group: list[Window] = []
    for window in ordered:
        if group and (len(group) + 1) * len(window[0]) > batch_tokens:
            yield _pad(group)
            group = []
        group.append(window)
    if group:
        yield _pad(group)


def _pad(group: list[Window]) -> tuple[Tensor, Tensor]:
    width = max(len(ids) for ids, _ in group)
    input_ids = torch.zeros(len(group), width, dtype=torch.long)
    labels = torch.full((len(group), width), IGNORE_INDEX)
    for row, (ids, seen) in enumerate(group):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        # Padding is on the right of a causal model, so it changes nothing; context is not counted again.
        labels[row, seen : len(ids)] = torch.tensor(ids[seen:])
    return input_ids, labels
