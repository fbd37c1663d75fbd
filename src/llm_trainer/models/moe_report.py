"""Which experts do what: how often each is chosen, text by text."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm_trainer.models.base import BaseLanguageModel
from llm_trainer.models.moe_routing import Router, Routing


@dataclass(frozen=True)
class ExpertReport:
    """Shares of the choices that each expert got."""

    layers: tuple[str, ...]
    """Places of the layers with experts, as ``blocks.3``."""
    shares: Mapping[str, Tensor]
    """Of each domain: (layers, n_experts), rows that sum to 1."""
    tokens: Mapping[str, int]
    """Tokens read of each domain."""

    @property
    def specialisation(self) -> list[float]:
        """How much a choice says about the domain, in bits, layer by layer.

        The mutual information of expert and domain, each domain counting alike: 0 if all are routed alike, and at most
        the logarithm of the smaller number of the two.
        """
        together = torch.stack(list(self.shares.values()))  # (domains, layers, experts)
        mean = together.mean(dim=0)
        bits = (torch.xlogy(together, together) - torch.xlogy(together, mean)).sum(dim=-1).mean(dim=0) / math.log(2)
        values: list[float] = bits.clamp(min=0).tolist()
        return values


@torch.no_grad()
def expert_shares(model: BaseLanguageModel, batches: Iterable[Tensor]) -> tuple[Tensor, int]:
    """How often each expert is chosen for the tokens of ``batches``.

    Args:
        model: with experts, in any mode; its mode is kept.
        batches: token ids, (batch, seq), without padding.

    Returns:
        (layers, n_experts) shares of all choices, and the number of tokens.
    """
    tokens = 0
    was_training = model.training
    model.eval()
    try:
        with _counted(model) as counts:
            for ids in batches:
                model.hidden_states(ids)
                tokens += ids.numel()
    finally:
        model.train(was_training)
    chosen = torch.stack(list(counts.values())).cpu()  # (layers, n_experts)
    return chosen / chosen.sum(dim=1, keepdim=True).clamp(min=1), tokens


def moe_report(model: BaseLanguageModel, domains: Mapping[str, Iterable[Tensor]]) -> ExpertReport:
    """Compare what experts do on texts of several domains.

    Args:
        model: with experts.
        domains: name -> batches of token ids, as :func:`expert_shares` takes them.
    """
    found = {name: expert_shares(model, batches) for name, batches in domains.items()}
    return ExpertReport(
        tuple(routers(model)),
        {name: shares for name, (shares, _) in found.items()},
        {name: tokens for name, (_, tokens) in found.items()},
    )


def routers(model: nn.Module) -> dict[str, Router]:
    """The routers of a model, by the place of their layer."""
    found = ((name, module) for name, module in model.named_modules() if isinstance(module, Router))
    return {name.removesuffix(".feed_forward.router"): router for name, router in found}


@contextlib.contextmanager
def _counted(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Count the choices of every router inside the block."""
    counts: dict[str, Tensor] = {}
    handles = []

    def watch(name: str, router: Router) -> None:
        counts[name] = torch.zeros(router.n_experts, dtype=torch.int64, device=router.expert_bias.device)

        def count(module: nn.Module, arguments: Any, routing: Routing) -> None:
            counts[name] += torch.bincount(routing.experts.flatten(), minlength=router.n_experts)

        handles.append(router.register_forward_hook(count))

    for name, router in routers(model).items():
        watch(name, router)
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
