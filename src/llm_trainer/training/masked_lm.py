"""Masked language modelling: an encoder guesses the tokens at the gaps of a text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from llm_trainer.models import BaseLanguageModel
from llm_trainer.training.objectives import IGNORE_INDEX, Batch, LossTerms, count_correct, output_loss


class MaskedLM:
    """Position t predicts ``labels[t]``, which is not -100 only at gaps (:mod:`llm_trainer.data.masking` makes them).

    Output layer and loss are computed for the gaps alone, a seventh of the positions. A validation also counts how many
    gaps were filled with what was there.
    """

    text_targets = None
    """Gaps are not a text, so there are no bits per byte."""

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Summed cross-entropy in nats over the gaps."""
        labels = batch["labels"]
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        gaps = labels != IGNORE_INDEX
        targets = labels[gaps]  # (gaps,)
        if isinstance(model, BaseLanguageModel):
            hidden = model.hidden_states(**inputs)[gaps]  # (gaps, d_model)
            correct = None if torch.is_grad_enabled() else count_correct(model, hidden, targets)
            return LossTerms(output_loss(model, hidden, targets), targets.numel(), correct=correct)
        inputs.pop("document_ids", None)
        logits = model(**inputs).logits[gaps].float()  # (gaps, vocab)
        correct = (logits.argmax(dim=-1) == targets).sum()
        return LossTerms(F.cross_entropy(logits, targets, reduction="sum"), targets.numel(), correct=correct)
