"""Keep the experts of a mixture equally busy, and say how busy they are.

After each update, the bias of every expert that had fewer tokens than the mean rises by ``router_bias_rate``, and that
of every expert that had more falls by it (Wang et al. 2024, https://arxiv.org/abs/2408.15664, with 0.001). The tokens
are those of the whole step, over micro-steps and ranks, and of each layer for itself.
"""

from __future__ import annotations

import math
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llm_trainer.common.devices import world_size
from llm_trainer.models.moe_routing import Router

ROUTER_PATH = ".feed_forward.router"


class RouterBalancing:
    """Holds the loads of all routers of a model. Without routers it does nothing.

    The loads arrive as gradients of :attr:`tensors` (see :mod:`llm_trainer.models.moe_routing`). So whoever forgets the
    gradients of a step, to begin it or to try it again, must forget theirs too.

    Args:
        model: on its device. A router that is not trained keeps its biases.
        bias_rate: how far a bias moves per step.
        aux_loss: weight of the auxiliary loss beside the loss of a token; 0 for none.
    """

    def __init__(self, model: nn.Module, bias_rate: float, aux_loss: float = 0.0) -> None:
        named = [(name, module) for name, module in model.named_modules() if isinstance(module, Router)]
        self._names = [name.removesuffix(ROUTER_PATH) for name, _ in named]
        self._routers = [router for _, router in named]
        self._rate, self._aux_loss = bias_rate, aux_loss
        self.tensors: list[Tensor] = []
        """One of each router, (n_experts + 1,); its gradient is the load of a step."""
        self._loads: list[Tensor] = []
        for router in self._routers:
            bias = router.expert_bias
            router.load = torch.zeros(router.n_experts + 1, device=bias.device, requires_grad=True)
            router.balance_price = torch.zeros((), device=bias.device) if aux_loss else None
            self.tensors.append(router.load)

    def begin(self, scale: float) -> None:
        """Before the first backward pass of a step, whose loss is multiplied by ``scale``."""
        for router in self._routers:
            if router.balance_price is not None:
                router.balance_price.fill_(self._aux_loss * scale)

    def take(self) -> None:
        """After the last backward pass of a step: the loads of all ranks. On a GPU nothing waits."""
        if not self.tensors:
            return
        loads = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in self.tensors]
        if world_size() > 1:
            together = torch.cat(loads)
            dist.all_reduce(together)
            loads = list(torch.split(together, [len(load) for load in loads]))
        self._loads = loads
        for tensor in self.tensors:
            tensor.grad = None

    @torch.no_grad()
    def update(self) -> None:
        """After the weights have changed: move the biases."""
        for router, load in zip(self._routers, self._loads, strict=True):
            if router.linear.weight.requires_grad:
                tokens = load[:-1]
                router.expert_bias += self._rate * torch.sign(tokens.mean() - tokens)

    def metrics(self) -> dict[str, float]:
        """Of the last step; on a GPU this waits, once.

        Returns:
            ``moe/load_ratio``: the busiest expert's tokens over the least busy one's, in the layer where that is
            largest (infinite if one had none); ``moe/largest_load``: the busiest expert's over the mean;
            ``moe/router_entropy``: of the scores, nats per token, the mean over layers; and the tokens of every expert,
            as ``moe/blocks.0/expert_0``.
        """
        if not self._loads:
            return {}
        values = iter(torch.cat(self._loads).tolist())
        found: dict[str, float] = {}
        ratio = largest = entropy = 0.0
        for name, router in zip(self._names, self._routers, strict=True):
            tokens, uncertainty = list(islice(values, router.n_experts)), next(values)
            total = sum(tokens)
            if not total:
                continue
            ratio = max(ratio, max(tokens) / min(tokens) if min(tokens) else math.inf)
            largest = max(largest, max(tokens) * len(tokens) / total)
            entropy += uncertainty * router.active / total / len(self._routers)
            found.update({f"moe/{name}/expert_{number}": count for number, count in enumerate(tokens)})
        return {"moe/load_ratio": ratio, "moe/largest_load": largest, "moe/router_entropy": entropy, **found}
