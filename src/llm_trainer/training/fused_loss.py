"""Output layer and cross-entropy in one, piece by piece.

With a vocabulary of 32,000, the logits of 8192 tokens are 1 GB in float32, and their gradient is as much again: at
small scale they are most of the memory traffic of a step. Computing loss *and* both gradients piece by piece in the
forward pass keeps one piece alive at a time. The readable twin is :func:`reference_linear_cross_entropy`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100
CHUNK_LOGITS = 1 << 24
"""Logits per piece on a CPU: 512 tokens of 32,000. Large enough for products at full speed and for few additions to the
weights' gradient, small enough to stay near the processor."""
CHUNK_LOGITS_GPU = 1 << 28
"""The same on a GPU: half a gigabyte in bfloat16."""
TINY = torch.finfo(torch.float32).tiny
FEW_TARGETS = 0.75
"""Below this share of positions with a target, rows without one are taken out first; above, that does not pay."""


def reference_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, softcap: float | None = None, z_loss: float = 0.0
) -> Tensor:
    """The definition: summed cross-entropy of ``hidden @ weight.T`` against ``targets``, ignoring -100."""
    logits = F.linear(hidden, weight).float().flatten(0, -2)  # (tokens, vocab)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    total = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    if z_loss:
        kept = targets.flatten() != IGNORE_INDEX
        total = total + z_loss * logits[kept].logsumexp(dim=-1).square().sum()
    return total


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float | None = None,
    z_loss: float = 0.0,
    chunk: int | None = None,
) -> Tensor:
    """Summed cross-entropy in nats without materialising all logits.

    Under bfloat16 autocast the probabilities are bfloat16 while gradients are wanted: each token's probability is then
    exact to 0.4 %, in both directions alike, so that the sum over a batch of thousands is exact to some 1e-5. Without
    gradients (validation) everything after the product is float32.

    Args:
        hidden: (batch, seq, d_model).
        weight: output layer, (vocab, d_model).
        targets: (batch, seq), already shifted; -100 is ignored.
        softcap: logits become ``softcap * tanh(logits / softcap)`` (Gemma 2, https://arxiv.org/abs/2408.00118).
        z_loss: adds ``z_loss * logsumexp(logits)^2`` per target, which keeps logits from drifting (PaLM, section 5).
        chunk: tokens per piece; as many as :func:`tokens_per_piece` says when left out.
    """
    device_type = hidden.device.type
    chunk = chunk or tokens_per_piece(weight.shape[0], device_type)
    flat = hidden.flatten(0, -2)  # (tokens, d_model)
    flat_targets = targets.flatten()
    if device_type == "cpu":  # counting on a GPU would be a wait
        kept = flat_targets != IGNORE_INDEX
        if int(kept.sum()) < FEW_TARGETS * len(kept):
            flat, flat_targets = flat[kept], flat_targets[kept]
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden.dtype
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    result: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        flat, weight, flat_targets, chunk, dtype, wanted, softcap, z_loss
    )
    return result


def tokens_per_piece(vocabulary: int, device_type: str) -> int:
    """How many tokens' logits exist at once."""
    return max(64, (CHUNK_LOGITS if device_type == "cpu" else CHUNK_LOGITS_GPU) // vocabulary)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk: int,
        dtype: torch.dtype,
        gradient: bool,
        softcap: float | None,
        z_loss: float,
    ) -> Tensor:
        """hidden (tokens, d_model), weight (vocab, d_model), targets (tokens,) -> scalar float32."""
        total = hidden.new_zeros((), dtype=torch.float32)
        cast_hidden, cast_weight = hidden.to(dtype), weight.to(dtype)
        grad_hidden = torch.empty_like(cast_hidden) if gradient else None
        grad_weight: Tensor | None = None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            counts = (targets[rows] != IGNORE_INDEX).unsqueeze(1)  # (chunk, 1)
            answers = targets[rows].unsqueeze(1).clamp(min=0)
            logits = cast_hidden[rows] @ cast_weight.T  # (chunk, vocab)
            if grad_hidden is None:
                total += (_losses(logits, answers, softcap, z_loss) * counts).sum()
                continue
            if softcap is None and not z_loss:
                losses, grad_logits = _losses_and_gradient(logits, answers)
            else:
                losses, grad_logits = _general_losses_and_gradient(logits, answers, softcap, z_loss)
            total += (losses * counts).sum()
            # Rows without a target are cleared on the narrow side of both products.
            torch.mm(grad_logits, cast_weight, out=grad_hidden[rows]).mul_(counts)
            piece = grad_logits.T @ (cast_hidden[rows] * counts)  # (vocab, d_model)
            grad_weight = piece.to(weight.dtype) if grad_weight is None else grad_weight.add_(piece)
        if grad_hidden is not None:
            nothing = torch.zeros_like(weight) if grad_weight is None else grad_weight
            ctx.save_for_backward(grad_hidden.to(hidden.dtype), nothing)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Both gradients are known up to the factor that comes from above."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return (grad_hidden * grads[0], grad_weight * grads[0], *[None] * 6)


def _losses_and_gradient(logits: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (tokens, 1) in float32 and d loss / d logits (tokens, vocab) = softmax - one-hot, in the logits' dtype.

    The softmax is PyTorch's own, which works in float32 inside and reads and writes once. What it rounds must not be
    subtracted from one: for a token that the model knows, 1 - p would be nothing but rounding. So the miss 1 - p is
    added up from the probabilities of all others.
    """
    softmax = torch.softmax(logits, dim=1)
    hit = softmax.gather(1, answers).float()  # (tokens, 1)
    softmax.scatter_(1, answers, 0.0)
    miss = softmax.sum(dim=1, keepdim=True).float()  # added up in float32
    losses = torch.where(hit < 0.5, -hit.clamp(min=TINY).log(), -torch.log1p(-miss.clamp(max=0.75)))
    softmax.scatter_(1, answers, -miss.to(softmax.dtype))
    return losses, softmax


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    """float32 logits after the cap."""
    logits = logits.float()
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def _losses(logits: Tensor, answers: Tensor, softcap: float | None, z_loss: float) -> Tensor:
    """Losses (tokens, 1), in float32."""
    logits = _capped(logits, softcap)
    normaliser = logits.logsumexp(dim=1, keepdim=True)
    return normaliser - logits.gather(1, answers) + z_loss * normaliser.square()


def _general_losses_and_gradient(
    logits: Tensor, answers: Tensor, softcap: float | None, z_loss: float
) -> tuple[Tensor, Tensor]:
    """The same with a cap on the logits, or a price on their normaliser."""
    dtype = logits.dtype
    logits = _capped(logits, softcap)
    slope = None if softcap is None else 1 - (logits / softcap).square()  # of softcap * tanh(x / softcap)
    normaliser = logits.logsumexp(dim=1, keepdim=True)
    losses = normaliser - logits.gather(1, answers) + z_loss * normaliser.square()
    gradient = logits.sub_(normaliser).exp_().mul_(1 + 2 * z_loss * normaliser)
    gradient.scatter_add_(1, answers, gradient.new_full((1, 1), -1.0).expand_as(answers))
    return losses, (gradient if slope is None else gradient.mul_(slope)).to(dtype)
