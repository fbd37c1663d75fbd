"""Lion: every weight moves by the same length, in the direction of a momentum's sign (Chen et al. 2023,
https://arxiv.org/abs/2302.06675, algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from llm_trainer.training.groupwise import GroupwiseOptimizer
from llm_trainer.training.weight_decay import decay, decay_cautiously


class Lion(GroupwiseOptimizer):
    """One buffer a parameter, half of AdamW's.

    Because every step has full length, the paper uses a learning rate 3 to 10 times smaller than AdamW's and a weight
    decay as many times larger (section 5).

    Args:
        params: parameters or groups.
        lr: length of a step, for every weight.
        betas: weight of the momentum in the direction, and the momentum's own decay.
        weight_decay: decoupled.
        cautious: decay only where update and weight agree in sign.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        cautious: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "cautious": cautious}
        super().__init__(params, defaults)

    def update(self, group: dict[str, Any]) -> None:
        """Decay, then step by the sign, then let the momentum follow."""
        weights, gradients = self.with_gradient(group)
        if not weights:
            return
        momenta = self.buffers(weights, "momentum")
        direction = torch._foreach_lerp(momenta, gradients, 1 - group["betas"][0])
        torch._foreach_sign_(direction)
        share = group["lr"] * group["weight_decay"]
        if share and group["cautious"]:
            decay_cautiously(weights, torch._foreach_mul(direction, weights), share)
        elif share:
            decay(weights, share)
        torch._foreach_add_(weights, direction, alpha=-group["lr"])
        torch._foreach_lerp_(momenta, gradients, 1 - group["betas"][1])
