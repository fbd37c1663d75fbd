"""Mixture of experts: a feed-forward network in many copies, of which each token meets a few (Shazeer et al. 2017,
https://arxiv.org/abs/1701.06538). The model knows more; a token costs the same.

Tokens are sorted by expert and multiplied group by group. No expert has a capacity: no token is ever dropped, and what
a token gets does not depend on the tokens beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llm_trainer.config import ModelConfig
from llm_trainer.models.grouped import ExpertLinear
from llm_trainer.models.layers import ACTIVATIONS, GATES, FeedForward
from llm_trainer.models.moe_routing import Router, Routing
from llm_trainer.models.registry import register


class Experts(nn.Module):
    """The networks of all experts, over rows sorted by expert.

    Args:
        config: its ``n_experts``, ``experts_per_token``, ``expert_dim``, ``d_model``, ``activation`` and ``bias``
            count.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        gated = config.activation in GATES
        self.activation = GATES[config.activation] if gated else ACTIVATIONS[config.activation]
        options: dict[str, Any] = {"bias": config.bias, "active": config.experts_per_token}
        wide, narrow = config.expert_dim, config.d_model
        self.gate_proj = ExpertLinear(config.n_experts, narrow, wide, **options) if gated else None
        self.up_proj = ExpertLinear(config.n_experts, narrow, wide, **options)
        self.down_proj = ExpertLinear(config.n_experts, wide, narrow, **options)

    def forward(self, rows: Tensor, ends: Tensor, expert_of_row: Tensor) -> Tensor:
        """(rows, d_model) -> same shape; see :class:`ExpertLinear`."""
        if self.gate_proj is None:
            hidden = self.activation(self.up_proj(rows, ends, expert_of_row))  # (rows, expert_dim)
        else:
            gate = self.activation(self.gate_proj(rows, ends, expert_of_row))
            hidden = gate * self.up_proj(rows, ends, expert_of_row)
        result: Tensor = self.down_proj(hidden, ends, expert_of_row)
        return result


@register("feed_forward", "moe")
class MoEFeedForward(nn.Module):
    """Router, experts, and what every token meets besides (``n_shared_experts``, as one wider network).

    Args:
        config: what :class:`Router` and :class:`Experts` need, ``n_shared_experts`` and ``residual_dropout``.

    Example:
        >>> layer = MoEFeedForward(ModelConfig(d_model=64, n_heads=4, n_experts=4))
        >>> layer(torch.zeros(2, 10, 64)).shape
        torch.Size([2, 10, 64])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.router = Router(config)
        self.experts = Experts(config)
        self.shared_experts: FeedForward | None = None
        if config.n_shared_experts:
            changes: dict[str, Any] = {"d_ff": config.n_shared_experts * config.expert_dim, "resid_dropout": 0.0}
            self.shared_experts = FeedForward(config.model_copy(update=changes))
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) -> same shape."""
        routing = self.router(x)
        mixed = apply_experts(self.experts, x, routing)
        if self.shared_experts is not None:
            mixed = mixed + self.shared_experts(x)
        result: Tensor = self.dropout(self.router.report(mixed, routing))
        return result


def apply_experts(experts: Experts, x: Tensor, routing: Routing) -> Tensor:
    """What the chosen experts say to each token, weighted and added up.

    Every token is copied once for each of its experts, the copies are sorted by expert, and each of the two or three
    matrices of all experts is one grouped product. :func:`explicit_experts` is the readable twin.

    Args:
        experts: of the layer.
        x: (..., d_model).
        routing: of x.

    Returns:
        (..., d_model), in the dtype that products are computed in.
    """
    active = routing.experts.shape[-1]
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    tokens = x.reshape(-1, x.shape[-1])  # (tokens, d_model)
    expert_of_row, order = routing.experts.reshape(-1).sort(stable=True)  # (tokens * K,)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=x.device))
    numbers = torch.arange(experts.up_proj.n_experts, device=x.device)
    ends = torch.searchsorted(expert_of_row, numbers, right=True, out_int32=True)  # (n_experts,)
    rows: Tensor = _Dispatch.apply(tokens, order, place, active)  # type: ignore[no-untyped-call]
    answers = experts(rows, ends, expert_of_row)  # (tokens * K, d_model)
    answers = _Dispatch.apply(answers, place, order, 1)  # type: ignore[no-untyped-call]
    weights = routing.weights.to(answers.dtype).reshape(-1, 1, active)
    return torch.bmm(weights, answers.view(-1, active, x.shape[-1])).view(x.shape)


class _Dispatch(torch.autograd.Function):
    """Copy each row ``copies`` times and put the copies in order. The backward pass puts the gradients back and adds
    up those of one row: two plain copies, where indexing would add in an order that GPUs do not promise."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, place: Tensor, copies: int) -> Tensor:
        """(rows, width) -> (rows * copies, width); ``place`` is the inverse of the permutation ``order``."""
        ctx.save_for_backward(place)
        ctx.copies = copies
        return rows.index_select(0, order if copies == 1 else order // copies)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """(rows * copies, width) -> (rows, width)."""
        (place,) = ctx.saved_tensors
        back = gradient.index_select(0, place)
        return back if ctx.copies == 1 else back.view(-1, ctx.copies, back.shape[-1]).sum(dim=1), None, None, None


def explicit_experts(experts: Experts, x: Tensor, routing: Routing) -> Tensor:
    """:func:`apply_experts`, written out: token by token and expert by expert. For reading and for checking.

    Args and result are those of :func:`apply_experts`.
    """
    result = []
    tokens = x.reshape(-1, x.shape[-1])
    choices, weights = routing.experts.flatten(0, -2), routing.weights.flatten(0, -2)  # (tokens, K)
    for token, chosen, shares in zip(tokens, choices, weights, strict=True):
        total = torch.zeros_like(token)
        for expert, share in zip(chosen.tolist(), shares, strict=True):
            hidden = experts.activation(_one(experts.gate_proj or experts.up_proj, expert, token))
            if experts.gate_proj is not None:
                hidden = hidden * _one(experts.up_proj, expert, token)
            total = total + share * _one(experts.down_proj, expert, hidden)
        result.append(total)
    return torch.stack(result).view(x.shape)


def _one(layer: ExpertLinear, expert: int, x: Tensor) -> Tensor:
    """One expert's layer on one token: (in,) -> (out,)."""
    y = layer.weight[expert] @ x
    return y if layer.bias is None else y + layer.bias[expert]
