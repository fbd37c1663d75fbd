"""What the optimizers written here have in common: a step goes group by group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor


class GroupwiseOptimizer(torch.optim.Optimizer):
    """An optimizer that says in :meth:`update` what a step does to one group of parameters."""

    def update(self, group: dict[str, Any]) -> None:
        """Move the parameters of ``group`` that have a gradient."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update.

        Args:
            closure: computes loss and gradients first; its result is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.update(group)
        return loss

    def with_gradient(self, group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters of ``group`` that have a gradient, and the gradients."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        return parameters, [cast(Tensor, parameter.grad) for parameter in parameters]

    def buffers(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        """The state ``name`` of each parameter, in its shape; zeros at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]
