"""Decoupled weight decay: the weights shrink by a share of themselves, apart from the gradient (Loshchilov & Hutter
2019, https://arxiv.org/abs/1711.05101).

*Cautious* decay shrinks a weight only where the update does not push it away from zero (Chen et al. 2025,
https://arxiv.org/abs/2510.12402): with ``w <- w - lr * update``, where ``update * w >= 0``. So decay never works
against the gradient, and the loss that is minimised stays the loss.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def decay(weights: list[Tensor], share: float) -> None:
    """Shrink all ``weights`` by ``share`` (learning rate times weight decay)."""
    torch._foreach_mul_(weights, 1 - share)


def decay_cautiously(weights: list[Tensor], products: Iterable[Tensor], share: float) -> None:
    """Shrink ``weights`` where ``products`` is not negative.

    Args:
        weights: changed in place.
        products: update times weight, in the shapes of ``weights``; overwritten.
        share: learning rate times weight decay.
    """
    for weight, product in zip(weights, products):
        weight.addcmul_(weight, product.ge_(0), value=-share)
