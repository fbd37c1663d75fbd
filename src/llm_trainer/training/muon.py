"""Muon: momentum whose update is made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

A hidden matrix moves by the nearest (semi-)orthogonal matrix to its momentum, so that all directions move equally
far. The nearest one is found by five Newton-Schulz iterations, matrix products only. Matrices of one shape are stacked
and orthogonalised together: on a CPU the iterations cost what matrix products cost, and few large ones are cheaper.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""A quintic that brings every singular value into about [0.7, 1.2] in five steps; steepest at zero."""


class Muon(torch.optim.Optimizer):
    """For 2-D weights between hidden states; embeddings, output layers and vectors belong to AdamW.

    Args:
        params: matrices (rows, columns).
        lr: step length, in units of the update's spectral norm.
        momentum: decay of the (Nesterov) momentum.
        weight_decay: decoupled, and *cautious*: only where update and weight agree in sign.
        iterations: Newton-Schulz steps.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        iterations: int = 5,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "iterations": iterations}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                updates = orthogonalise(self._momentum(parameters, group["momentum"]), group["iterations"])
                # A tall matrix needs longer steps for the same change of its output.
                length = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, updates):
                    if group["weight_decay"]:
                        agrees = (update * parameter) > 0
                        parameter.sub_(parameter * agrees, alpha=group["lr"] * group["weight_decay"])
                    parameter.sub_(update.to(parameter.dtype), alpha=length)

    def _momentum(self, parameters: list[Tensor], decay: float) -> Tensor:
        """Nesterov momentum of matrices of one shape, stacked: (matrices, rows, columns)."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            buffers.append(state["momentum"])
        torch._foreach_lerp_(buffers, gradients, 1 - decay)
        return torch.stack(torch._foreach_lerp(gradients, buffers, decay))


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Newton-Schulz: the orthogonal factor of each matrix, approximately. (n, rows, columns) -> same shape."""
    a, b, c = COEFFICIENTS
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    x = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if matrices.shape[-2] > matrices.shape[-1] else x
    return result
