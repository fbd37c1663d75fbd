"""Labels: one for each text, or one for each token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from llm_trainer.training.objectives import IGNORE_INDEX, Batch, LossTerms


class Classification:
    """Cross-entropy of a model's ``logits``, (batch, classes) or (batch, seq, classes), against ``labels``, (batch,) or
    (batch, seq); -100 does not count. The accuracy is logged while training too, for it costs nothing here."""

    text_targets = None
    """Labels are not a text, so there are no bits per byte."""

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Summed cross-entropy in nats over the labels."""
        labels = batch["labels"].flatten()
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        logits = model(**inputs).logits.float().flatten(0, -2)  # (labels, classes)
        count = (labels != IGNORE_INDEX).sum()
        correct = (logits.detach().argmax(dim=-1) == labels).sum()
        total = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
        return LossTerms(total, count, {"accuracy": correct / count.clamp(min=1)}, correct=correct)
