"""Sequence to sequence: an encoder-decoder learns to write the target of each source."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from llm_trainer.models.seq2seq import EncoderDecoderLM, shifted_right
from llm_trainer.training.objectives import IGNORE_INDEX, Batch, LossTerms, count_correct, output_loss


class SequenceToSequence:
    """The decoder reads the target moved one to the right, after the start token, and predicts it: teacher forcing.

    It serves span corruption and pairs of source and target alike: those differ in their batches only.
    """

    text_targets = None
    """An answer to a source is not a text on its own, so there are no bits per byte."""

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Summed cross-entropy in nats over the tokens of the targets."""
        labels = batch["labels"]  # (batch, target)
        count = (labels != IGNORE_INDEX).sum()
        if isinstance(model, EncoderDecoderLM):
            memory = model.encode(batch["input_ids"], batch.get("attention_mask"))
            # Padding is on the right, where nothing that counts can see it.
            hidden = model.hidden_states(shifted_right(labels, model.config.decoder_start_token_id), memory=memory)
            correct = None if torch.is_grad_enabled() else count_correct(model, hidden, labels)
            return LossTerms(output_loss(model, hidden, labels), count, correct=correct)
        shift: Any = model.prepare_decoder_input_ids_from_labels  # as the models of transformers have it
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask") if key in batch}
        logits = model(**inputs, decoder_input_ids=shift(labels)).logits.float()
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
        return LossTerms(total, count, correct=(logits.argmax(dim=-1) == labels).sum())
