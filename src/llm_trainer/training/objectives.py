"""What is trained: an objective turns a batch into a *sum* of losses and a *count* of targets.

Keeping the two apart is the point. The gradient of one optimizer step is the gradient of ``sum over everything / count
of everything``, over micro-steps and ranks. A mean of the micro-batches' means is another number whenever they hold
different numbers of targets, and it is the bug behind many unexplained loss curves
(https://github.com/huggingface/transformers/issues/34242).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_trainer.models import BaseLanguageModel
from llm_trainer.training.fused_loss import linear_cross_entropy

IGNORE_INDEX = -100
Batch = Mapping[str, Tensor]


@dataclass
class LossTerms:
    """The loss of one micro-batch, not yet divided."""

    total: Tensor
    """Sum over targets, a scalar with a gradient."""
    count: int | Tensor
    """Number of targets in that sum. On a GPU, leave it a tensor: making a number of it would wait for the GPU."""
    metrics: dict[str, float | Tensor] = field(default_factory=dict)
    """Anything else worth logging; a tensor is read only when a line of metrics is written."""


class Objective(Protocol):
    """Anything that can say what a batch costs.

    The loss is a sum over rows that do not depend on each other: when memory runs out, the loop computes them apart.
    """

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """The loss of ``batch`` under ``model``."""
        ...


class CausalLM:
    """Next-token prediction: position t predicts ``labels[t + 1]``; targets of -100 do not count.

    Args:
        z_loss: while training, adds ``z_loss * logsumexp(logits)^2`` per target, which keeps logits from drifting away
            (Chowdhery et al. 2022, PaLM, section 5, with 1e-4; https://arxiv.org/abs/2204.02311).
    """

    def __init__(self, z_loss: float = 0.0) -> None:
        self.z_loss = z_loss

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Summed cross-entropy in nats, over the shifted targets.

        Our own models give their hidden states, and head and loss are computed together in pieces, so that the
        (tokens x vocabulary) logits never exist at once. Any other model gives logits.
        """
        targets = shifted_targets(batch["labels"])  # (batch, seq)
        count = (targets != IGNORE_INDEX).sum()
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        z_loss = self.z_loss if torch.is_grad_enabled() else 0.0  # what is validated is the loss alone
        if isinstance(model, BaseLanguageModel):
            hidden = model.hidden_states(**inputs)  # (batch, seq, d_model)
            softcap = model.config.logit_softcap
            total = linear_cross_entropy(hidden, model.lm_head.weight, targets, softcap=softcap, z_loss=z_loss)
            return LossTerms(total, count)
        inputs.pop("document_ids", None)
        logits = model(**inputs).logits.float()  # (batch, seq, vocab)
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
        if z_loss:
            total = total + z_loss * (logits.logsumexp(dim=-1).square() * (targets != IGNORE_INDEX)).sum()
        return LossTerms(total, count)


def shifted_targets(labels: Tensor) -> Tensor:
    """``labels`` moved one to the left: the target of each position, and -100 at the last. (batch, seq) -> same."""
    targets = torch.full_like(labels, IGNORE_INDEX)
    targets[:, :-1] = labels[:, 1:]
    return targets
