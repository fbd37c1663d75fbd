"""Loss on text that is not trained on, and the one figure that does not depend on the tokenizer: bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm_trainer.training.objectives import IGNORE_INDEX, Batch, Objective, shifted_targets
from llm_trainer.training.parallel.data_parallel import sum_over_ranks


def byte_lengths(tokenizer: Any) -> Tensor | None:
    """Bytes that each token id stands for, (vocab,); None for a tokenizer that cannot tell."""
    lengths = getattr(tokenizer, "token_byte_lengths", None)
    return None if lengths is None else torch.from_numpy(np.asarray(lengths(), dtype=np.int64))


@torch.no_grad()
def validate(
    model: nn.Module,
    objective: Objective,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    autocast: AbstractContextManager[Any],
    token_bytes: Tensor | None = None,
) -> dict[str, float]:
    """Token-weighted loss over all batches: the result does not depend on how they are cut.

    Returns:
        ``validation/loss`` in nats per token, ``validation/perplexity``, and with ``token_bytes``
        ``validation/bits_per_byte``: all nats (those of end-of-document tokens too) over the bytes of all targets. An
        objective that does not predict text from left to right (``text_targets = None``) has none; one that counts
        what it got right has ``validation/accuracy``.
    """
    targets_of = getattr(objective, "text_targets", shifted_targets)
    was_training = model.training
    model.eval()
    # These stay on the device until the end: looking at each batch's numbers would wait for each batch.
    sums = torch.zeros(2, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    text_bytes = 0.0
    correct: Tensor | int | None = None
    try:
        for batch in batches:
            with autocast:
                terms = objective.loss(model, {key: value.to(device) for key, value in batch.items()})
            sums[0] += terms.total
            sums[1] += terms.count
            if terms.correct is not None:
                correct = terms.correct + (0 if correct is None else correct)
            if token_bytes is not None and targets_of is not None:
                targets = targets_of(batch["labels"])
                text_bytes += float(token_bytes[targets[targets != IGNORE_INDEX]].sum())
    finally:
        model.train(was_training)
    total, count = sums.tolist()
    # Every rank has its share of the batches; all of them get the figures of the whole.
    hits = 0.0 if correct is None else float(correct)
    total, count, text_bytes, hits = sum_over_ranks([total, count, text_bytes, hits], device)
    loss = total / max(1, count)
    metrics = {"validation/loss": loss, "validation/perplexity": math.exp(min(loss, 700.0))}
    if correct is not None:
        metrics["validation/accuracy"] = hits / max(1, count)
    if text_bytes:
        metrics["validation/bits_per_byte"] = total / math.log(2) / text_bytes
    return metrics
