"""Trade time for memory: forget a block's activations in the forward pass and compute them again in the backward pass
(Chen et al. 2016, https://arxiv.org/abs/1604.06174). Applied from outside; the model does not know."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def apply_activation_checkpointing(model: nn.Module, every: int = 1) -> None:
    """Recompute the activations of every ``every``-th block.

    Loss and gradients stay the same, dropout included, because the random state is restored for the second pass. With
    ``every=1`` a step costs a third more arithmetic, and one hidden state per block is what remains in memory.

    Args:
        model: changed in place; has its blocks in ``model.blocks``.
        every: 1 for all blocks, 2 for every other one...

    Raises:
        ValueError: ``every`` is not positive, or the model has no ``blocks``.
    """
    blocks = getattr(model, "blocks", None)
    if every < 1 or not isinstance(blocks, nn.ModuleList):
        raise ValueError("activation checkpointing needs every >= 1 and a model with a ModuleList named 'blocks'")
    for index, block in enumerate(blocks):
        if index % every == 0 and "forward" not in vars(block):
            # A partial over the bound method, not a closure: a deep copy of the model must recompute its own blocks.
            block.forward = functools.partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Tensor], *args: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(*args)
    result: Tensor = checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True)
    return result
