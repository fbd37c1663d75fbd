"""Muon: momentum whose update is made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

A hidden matrix moves by the nearest (semi-)orthogonal matrix to its momentum, so that all directions move equally
far. The nearest one is found by five Newton-Schulz iterations, matrix products only. Matrices of one shape are stacked
and orthogonalised together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from llm_trainer.training.groupwise import GroupwiseOptimizer
from llm_trainer.training.weight_decay import decay, decay_cautiously

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""A quintic that brings every singular value into about [0.7, 1.2] in five steps; steepest at zero."""
SMALLEST_NORM = 1e-7
"""A momentum below this norm is not blown up to a whole step."""
FIRST_MOMENTUM = 0.85
"""Where a warm-up of the momentum begins (as in https://github.com/KellerJordan/modded-nanogpt)."""
CPU_STACK = 2**18
"""Numbers in a stack on a CPU: its products then stay in the second-level cache. Measured with 16 matrices of 256 x 256
on one thread: 82 ms in stacks of 4, 99 ms in one of 16."""
OBLONG = 1.5
"""From this ratio of the sides on, iterating on the Gram matrix takes fewer products."""


class Muon(GroupwiseOptimizer):
    """For weights between hidden states; embeddings, output layers and vectors belong to AdamW.

    Args:
        params: matrices (outputs, inputs), or stacks of them (..., outputs, inputs).
        lr: step length, in units of the update's spectral norm.
        momentum: decay of the (Nesterov) momentum.
        weight_decay: decoupled.
        cautious: decay only where update and weight agree in sign.
        iterations: Newton-Schulz steps.
        momentum_warmup_steps: steps in which the momentum rises from 0.85; 0 for none.
        compute_dtype: of the iterations. bfloat16 is several times faster where there are instructions for it, and its
            error (below 0.02 for the worst singular value) is small beside what five iterations leave. Everything
            else is computed in float32.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        cautious: bool = True,
        iterations: int = 5,
        momentum_warmup_steps: int = 0,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "momentum_warmup_steps": momentum_warmup_steps,
            "weight_decay": weight_decay,
            "cautious": cautious,
            "iterations": iterations,
        }
        super().__init__(params, defaults)
        self.compute_dtype = compute_dtype

    def update(self, group: dict[str, Any]) -> None:
        """Move every matrix, those of one shape and momentum together."""
        alike: dict[tuple[torch.Size, float], list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
        weights, gradients = self.with_gradient(group)
        for weight, gradient, buffer in zip(weights, gradients, self.buffers(weights, "momentum")):
            key = (weight.shape[-2:], self._momentum(weight, group))
            alike[key].extend(zip(_matrices(weight), _matrices(gradient), _matrices(buffer)))
        for (shape, momentum), triples in alike.items():
            size = max(1, CPU_STACK // shape.numel()) if triples[0][0].device.type == "cpu" else len(triples)
            for start in range(0, len(triples), size):
                self._move(triples[start : start + size], momentum, group)

    def _momentum(self, weight: Tensor, group: dict[str, Any]) -> float:
        """The momentum of this step, by the number of steps that the weight has made."""
        state, warmup = self.state[weight], group["momentum_warmup_steps"]
        state["step"] = state.get("step", 0) + 1
        progress = min(1.0, (state["step"] - 1) / warmup) if warmup else 1.0
        return float(group["momentum"] * progress + min(FIRST_MOMENTUM, group["momentum"]) * (1 - progress))

    def _move(self, triples: list[tuple[Tensor, Tensor, Tensor]], momentum: float, group: dict[str, Any]) -> None:
        """One step of matrices of one shape: (weight, gradient, momentum buffer), each (rows, columns)."""
        weights, gradients, buffers = ([triple[index] for triple in triples] for index in range(3))
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        nesterov = torch.stack(torch._foreach_lerp(gradients, buffers, momentum))
        updates = orthogonalise(nesterov.to(self.compute_dtype), group["iterations"]).to(nesterov.dtype).unbind()
        share = group["lr"] * group["weight_decay"]
        if share and group["cautious"]:
            decay_cautiously(weights, torch._foreach_mul(weights, updates), share)
        elif share:
            decay(weights, share)
        rows, columns = weights[0].shape
        # A tall matrix needs longer steps for the same change of its output.
        torch._foreach_add_(weights, updates, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Newton-Schulz: the orthogonal factor of each matrix, approximately. (n, rows, columns) -> same shape.

    Each iteration is ``x <- a x + (b G + c G G) x`` with ``G = x x^T``, or, for tall matrices, the same from the right
    with ``G = x^T x``.
    """
    x: Tensor = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    short, long = sorted(x.shape[-2:])
    if long > OBLONG * short and _is_exact(x):
        return _orthogonalise_oblong(x, iterations)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        gram = _gram(x)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        left, right = (x, polynomial) if _is_tall(x) else (polynomial, x)
        x = torch.baddbmm(x, left, right, beta=a)
    return x


def _orthogonalise_oblong(x: Tensor, iterations: int) -> Tensor:
    """The same result from fewer products, for a long and a short side.

    Every iteration multiplies x by a polynomial P of its Gram matrix G, and turns G into P G P; polynomials of one
    matrix commute. So all of it can be done on G, short x short, and the long side is only touched at the beginning
    and at the end: five iterations take 2 r + 17 products of short^3 instead of 10 r + 5, with r = long / short. Errors
    of G grow up to twelvefold an iteration, which float32 can afford (the result is off by at most 2e-4, measured with
    matrices of rank 1; written out it is 2e-5) and bfloat16 cannot.
    """
    a, b, c = COEFFICIENTS
    gram, product = _gram(x), None
    for iteration in range(iterations):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
        if iteration < iterations - 1:
            gram = polynomial @ gram @ polynomial
    if product is None:
        return x
    result: Tensor = x @ product if _is_tall(x) else product @ x
    return result


def _is_exact(x: Tensor) -> bool:
    """Whether products of ``x`` are computed in float32 indeed: PyTorch can be told to use less."""
    # Only the name of the backend can be asked: the question without it fails once a person has set one backend.
    backend: Any = torch.backends.mkldnn
    precision = backend.matmul.fp32_precision
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and precision in ("none", "ieee")


def _gram(x: Tensor) -> Tensor:
    """(n, rows, columns) -> (n, short, short)."""
    gram: Tensor = x.mT @ x if _is_tall(x) else x @ x.mT
    return gram


def _is_tall(x: Tensor) -> bool:
    return x.shape[-2] > x.shape[-1]


def _matrices(stack: Tensor) -> list[Tensor]:
    """Views of the matrices in (..., rows, columns)."""
    return [stack] if stack.ndim == 2 else list(stack.view(-1, *stack.shape[-2:]).unbind())
