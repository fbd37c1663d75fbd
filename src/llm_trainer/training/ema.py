"""An exponential moving average of the weights: after each step, ``average += (1 - decay) * (weight - average)``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from llm_trainer.common.errors import UserError

TOO_COARSE = (torch.bfloat16, torch.float16)


class EMA:
    """Averages of a model's trainable parameters, kept apart from the model.

    Args:
        model: its parameters now are where the average starts.
        decay: share of the old average that stays at each step.

    Raises:
        UserError: the weights are kept in 16 bits, where an average that moves by a thousandth stays where it is.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name, parameter in self._parameters.items():
            if parameter.dtype in TOO_COARSE:
                raise UserError(
                    f"use_ema needs weights in float32; {name} is kept in {str(parameter.dtype)[6:]}",
                    hint="load the model in float32: with precision bf16 its products are still computed in bfloat16",
                )
        self.averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the current weights into the average."""
        torch._foreach_lerp_(list(self.averages.values()), list(self._parameters.values()), 1 - self.decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # One at a time, so that a second copy of the weights is never needed.
        for name, parameter in self._parameters.items():
            current = parameter.detach().clone()
            parameter.copy_(self.averages[name])
            self.averages[name].copy_(current)

    def load(self, averages: dict[str, Tensor]) -> None:
        """Restore saved averages."""
        for name, tensor in self.averages.items():
            tensor.copy_(averages[name])
