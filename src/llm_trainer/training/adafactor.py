"""Adafactor: AdamW's second moment kept as one row and one column (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235).

For a matrix of n x m it stores n + m numbers instead of 2nm. Equal, step by step, to the one in transformers, and,
where gradients are not tiny, to ``torch.optim.Adafactor`` (whose floor under the mean of squares is 1.2e-7, not 1e-30).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from llm_trainer.training.groupwise import GroupwiseOptimizer

SMALLEST_SQUARE = 1e-30
"""Added to squares, so that no mean of them is 0 (the paper's epsilon 1)."""


class Adafactor(GroupwiseOptimizer):
    """Factored second moments, no first moment, updates clipped to a root mean square of ``clip``.

    Args:
        params: parameters or groups.
        lr: largest relative step; the step is also bounded by 1/sqrt(t) and scaled by the size of the parameter.
        beta2_decay: the second moment's memory is ``1 - t ** beta2_decay``.
        eps: least size that a parameter is taken to have.
        clip: bound on the update's root mean square.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: float = 1e-3,
        clip: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "clip": clip, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def update(self, group: dict[str, Any]) -> None:
        """Move every parameter of ``group``."""
        for parameter, gradient in zip(*self.with_gradient(group)):
            self._move(parameter, gradient, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        step = float(state["step"])
        # Sizes stay tensors: reading a number from a GPU would wait for it, twice a parameter.
        size = _root_mean_square(parameter).clamp(min=group["eps"])
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        update = self._normalised(state, gradient, 1 - step ** group["beta2_decay"])
        excess = (_root_mean_square(update) / group["clip"]).clamp(min=1.0)
        relative = min(group["lr"], 1 / step**0.5)
        parameter.addcmul_(update, size / excess, value=-relative)

    @staticmethod
    def _normalised(state: dict[str, Any], gradient: Tensor, beta2: float) -> Tensor:
        """The gradient over the root of its mean square: factored for matrices, whole for vectors."""
        squares = gradient.square().add_(SMALLEST_SQUARE)
        if gradient.ndim < 2:
            if "variance" not in state:
                state["variance"] = torch.zeros_like(gradient)
            return state["variance"].lerp_(squares, 1 - beta2).rsqrt().mul_(gradient)  # type: ignore[no-any-return]
        if "row" not in state:
            state["row"] = gradient.new_zeros((*gradient.shape[:-1], 1))
            state["column"] = gradient.new_zeros((*gradient.shape[:-2], 1, gradient.shape[-1]))
        row = state["row"].lerp_(squares.mean(dim=-1, keepdim=True), 1 - beta2)
        column = state["column"].lerp_(squares.mean(dim=-2, keepdim=True), 1 - beta2)
        # Each root by itself: their product could be too small for a float32.
        rows = (row / row.mean(dim=-2, keepdim=True)).rsqrt()
        return (gradient * rows).mul_(column.rsqrt())  # type: ignore[no-any-return]


def _root_mean_square(tensor: Tensor) -> Tensor:
    result: Tensor = torch.linalg.vector_norm(tensor) / tensor.numel() ** 0.5
    return result
