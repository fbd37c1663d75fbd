"""Output layer and cross-entropy in one, piece by piece.

With a vocabulary of 8192, the logits of 8192 tokens are 256 MB, and their gradient is as much again: at small scale
they are most of the memory traffic of a step. Computing loss *and* both gradients chunk by chunk in the forward pass
keeps one chunk alive at a time. The readable twin is one line, :func:`reference_linear_cross_entropy`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_LOGITS = 1 << 22
"""Logits per piece, that is, 512 tokens of 8192. There, 128 to 1024 tokens made no difference on a CPU, and 4096 were a
third slower. With a small vocabulary everything is one piece."""


def reference_linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The definition: summed cross-entropy of ``hidden @ weight.T`` against ``targets``, ignoring -100."""
    logits = F.linear(hidden, weight).float()
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=-100, reduction="sum")


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int | None = None) -> Tensor:
    """Summed cross-entropy in nats without materialising all logits.

    Args:
        hidden: (batch, seq, d_model).
        weight: output layer, (vocab, d_model).
        targets: (batch, seq), already shifted; -100 is ignored.
        chunk: tokens per piece; as many as :data:`CHUNK_LOGITS` allows when left out.
    """
    chunk = chunk or max(64, CHUNK_LOGITS // weight.shape[0])
    flat = hidden.flatten(0, -2)  # (tokens, d_model)
    flat_targets = targets.flatten()
    kept = flat_targets != -100
    if not bool(kept.all()):
        flat, flat_targets = flat[kept], flat_targets[kept]
    device_type = hidden.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden.dtype
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    result: Tensor = _LinearCrossEntropy.apply(flat, weight, flat_targets, chunk, dtype, wanted)  # type: ignore[no-untyped-call]
    return result


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, dtype: torch.dtype, gradient: bool
    ) -> Tensor:
        """hidden (tokens, d_model), weight (vocab, d_model), targets (tokens,) without -100 -> scalar float32."""
        total = hidden.new_zeros((), dtype=torch.float32)
        cast_weight = weight.to(dtype)
        grad_hidden = torch.empty_like(hidden) if gradient else None
        grad_weight = torch.zeros_like(weight) if gradient else None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            piece, answers = hidden[rows].to(dtype), targets[rows].unsqueeze(1)
            logits = (piece @ cast_weight.T).float()  # (chunk, vocab)
            right = logits.gather(1, answers)  # (chunk, 1)
            largest = logits.amax(dim=1, keepdim=True)
            # One exponential serves loss and gradient: logsumexp and a softmax after it would take two.
            exponentials = logits.sub_(largest).exp_()
            normaliser = exponentials.sum(dim=1, keepdim=True)
            total += (largest + normaliser.log() - right).sum()
            if grad_hidden is None or grad_weight is None:
                continue
            # d loss / d logits = softmax - one-hot, in the logits' own memory.
            softmax = exponentials.div_(normaliser)
            softmax.scatter_add_(1, answers, softmax.new_full((1, 1), -1.0).expand_as(answers))
            grad_logits = softmax.to(dtype)
            grad_hidden[rows] = grad_logits @ cast_weight
            grad_weight += grad_logits.T @ piece
        if grad_hidden is not None and grad_weight is not None:
            ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Both gradients are known up to the factor that comes from above."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None, None, None
