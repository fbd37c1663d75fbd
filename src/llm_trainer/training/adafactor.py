"""Adafactor: AdamW's second moment kept as one row and one column (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235).

For a matrix of n x m it stores n + m numbers instead of 2nm. Equal, step by step, to ``torch.optim.Adafactor``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Adafactor(torch.optim.Optimizer):
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

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        step = float(state["step"])
        relative = min(group["lr"], 1 / step**0.5)
        size = max(group["eps"], parameter.norm(2).item() / parameter.numel() ** 0.5)
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        variance = self._second_moment(state, gradient, 1 - step ** group["beta2_decay"])
        update = gradient * variance.clamp(min=torch.finfo(gradient.dtype).eps ** 2).rsqrt()
        rms = update.norm(2).item() / update.numel() ** 0.5
        parameter.add_(update, alpha=-relative * size / max(1.0, rms / group["clip"]))

    @staticmethod
    def _second_moment(state: dict[str, Any], gradient: Tensor, beta2: float) -> Tensor:
        """The running mean of squares: factored for matrices, whole for vectors."""
        if gradient.ndim < 2:
            if "variance" not in state:
                state["variance"] = torch.zeros_like(gradient)
            return state["variance"].lerp_(gradient.square(), 1 - beta2)  # type: ignore[no-any-return]
        if "row" not in state:
            state["row"] = gradient.new_zeros((*gradient.shape[:-1], 1))
            state["column"] = gradient.new_zeros((*gradient.shape[:-2], 1, gradient.shape[-1]))
        row = state["row"].lerp_(gradient.square().mean(dim=-1, keepdim=True), 1 - beta2)
        column = state["column"].lerp_(gradient.square().mean(dim=-2, keepdim=True), 1 - beta2)
        scale = row.mean(dim=-2, keepdim=True).clamp(min=torch.finfo(gradient.dtype).eps)
        return row @ column / scale  # type: ignore[no-any-return]
