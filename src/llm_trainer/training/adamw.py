"""AdamW with cautious weight decay, around PyTorch's fused kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llm_trainer.training.weight_decay import decay_cautiously


class AdamW(torch.optim.AdamW):
    """PyTorch's AdamW; groups with ``cautious_weight_decay`` decay only where update and weight agree in sign.

    The kernel updates and decays in one pass and tells nobody the update. Its sign is needed alone, though, and that is
    the sign of the first moment after this step, because what the moment is divided by is positive. So the moment is
    worked out beforehand, the decay is done by hand, and the kernel runs with ``weight_decay`` 0.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update. ``closure``, if given, computes loss and gradients first; its result is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group.get("cautious_weight_decay"):
                self._decay(group)
        super().step()
        return loss

    def _decay(self, group: dict[str, Any]) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        products = [self._next_moment(weight, weight.grad, group["betas"][0]) for weight in weights]
        torch._foreach_mul_(products, weights)
        decay_cautiously(weights, products, group["lr"] * group["cautious_weight_decay"])

    def _next_moment(self, weight: Tensor, gradient: Tensor, beta1: float) -> Tensor:
        moment = self.state[weight].get("exp_avg")
        # Before the first step the moment is 0, and the next one has the sign of the gradient.
        return gradient.clone() if moment is None else torch.lerp(moment, gradient, 1 - beta1)
