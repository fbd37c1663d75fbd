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

from llm_trainer.common.errors import UserError
from llm_trainer.models import BaseLanguageModel
from llm_trainer.training.foreign import foreign_logits
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
    correct: int | Tensor | None = None
    """How many of the targets were the likeliest prediction, where that is known: the accuracy of a validation."""


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
            return LossTerms(output_loss(model, hidden, targets, z_loss=z_loss), count)
        logits = foreign_logits(model, inputs).float()  # (batch, seq, vocab)
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
        if z_loss:
            total = total + z_loss * (logits.logsumexp(dim=-1).square() * (targets != IGNORE_INDEX)).sum()
        return LossTerms(total, count)


def default_objective(model: nn.Module, z_loss: float = 0.0) -> Objective:
    """Next-token prediction.

    Raises:
        UserError: of a model that sees the next token, and would learn to copy it.
    """
    refuse_other_families(
        model, hint="pass objective=MaskedLM(), Classification() or SequenceToSequence() (llm_trainer.training)"
    )
    return CausalLM(z_loss)


def refuse_other_families(model: nn.Module, *, hint: str) -> None:
    """Stop where only a decoder will do.

    Raises:
        UserError: the model is of another family.
    """
    family = model.config.family if isinstance(model, BaseLanguageModel) else "decoder"
    if family != "decoder":
        raise UserError(f"a model of family {family} does not learn to predict the next token", hint=hint)


def output_loss(model: BaseLanguageModel, hidden: Tensor, targets: Tensor, *, z_loss: float = 0.0) -> Tensor:
    """Summed cross-entropy in nats of a model's output layer, without ever holding all logits.

    Args:
        model: says what the output layer is.
        hidden: its hidden states, (..., d_model).
        targets: (...), what each of them is to predict; -100 does not count.
        z_loss: see :class:`CausalLM`.
    """
    weight, bias = model.lm_head.weight, model.lm_head.bias
    hidden = model.before_head(hidden)
    if bias is not None:
        # A bias is one more column of weights, over an input that is always 1.
        hidden = torch.cat((hidden, hidden.new_ones(*hidden.shape[:-1], 1)), dim=-1)
        weight = torch.cat((weight, bias.unsqueeze(1)), dim=1)
    return linear_cross_entropy(hidden, weight, targets, softcap=model.config.logit_softcap, z_loss=z_loss)


@torch.no_grad()
def count_correct(model: BaseLanguageModel, hidden: Tensor, targets: Tensor, *, rows: int = 1024) -> Tensor:
    """How many targets, (...), are the likeliest token after hidden states, (..., d_model); a scalar.

    Args:
        model: says what the output layer is.
        hidden: its hidden states.
        targets: -100 does not count.
        rows: hidden states whose logits are held at once.
    """
    correct = torch.zeros((), dtype=torch.int64, device=targets.device)
    pieces = torch.split(hidden.flatten(0, -2), rows), torch.split(targets.flatten(), rows)
    for some, wanted in zip(*pieces, strict=True):
        correct += (model.logits_from(some).argmax(dim=-1) == wanted).sum()
    return correct


def shifted_targets(labels: Tensor) -> Tensor:
    """``labels`` moved one to the left: the target of each position, and -100 at the last. (batch, seq) -> same."""
    targets = torch.full_like(labels, IGNORE_INDEX)
    targets[:, :-1] = labels[:, 1:]
    return targets
