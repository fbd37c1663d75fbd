"""Which experts a token is sent to, and with what weights.

The router scores all experts, the best ``experts_per_token`` are taken, and their scores are the weights of what they
say. For balance, a bias is added to the scores *for choosing only* (Wang et al. 2024, "Auxiliary-Loss-Free Load
Balancing", https://arxiv.org/abs/2408.15664; DeepSeek-V3 2024, section 2.1.2, https://arxiv.org/abs/2412.19437). The
model never moves it: it has no gradient. Training does, from the loads.

How loads get from here to training deserves a word. A counter that the forward pass raises would be wrong whenever
activations are computed twice or a micro-batch is thrown away for lack of memory. So the loads travel the way that is
already right about all this: as a gradient. Training gives a router a tensor ``load``, and what the backward pass adds
to its ``grad`` is the number of tokens that each expert had. Like gradients, loads are added over micro-steps, added
over ranks, and forgotten with a failed attempt.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_trainer.config import ModelConfig


class Routing(NamedTuple):
    """Where tokens go. K is ``experts_per_token``."""

    experts: Tensor
    """(..., K) int64, the best first."""
    weights: Tensor
    """(..., K) float32, of what the experts say."""
    scores: Tensor
    """(..., n_experts) float32, of all experts, without the bias."""


class Router(nn.Module):
    """Scores by a linear layer in float32, whatever the precision of the rest: rounding would change choices
    (Fedus et al. 2021, "Switch Transformer", section 2.4, https://arxiv.org/abs/2101.03961).

    Args:
        config: its ``d_model``, ``n_experts``, ``experts_per_token``, ``router_scores``, ``expert_scale`` and
            ``normalise_expert_weights`` count.
    """

    expert_bias: Tensor
    """(n_experts,), added to the scores for choosing. A buffer: saved with the model, and never given a gradient."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_experts, self.active = config.n_experts, config.experts_per_token
        self.sigmoid = config.router_scores == "sigmoid"
        self.normalise = config.normalises_expert_weights
        self.scale = config.expert_scale
        self.linear = nn.Linear(config.d_model, config.n_experts, bias=False)
        self.register_buffer("expert_bias", torch.zeros(config.n_experts))
        self.load: Tensor | None = None
        """Given by who wants to know loads: (n_experts + 1,) float32 that requires a gradient. The backward pass adds
        to it the tokens of each expert, and last the sum of the entropies of their scores."""
        self.balance_price: Tensor | None = None
        """Given by who wants the auxiliary loss: what it counts beside the loss sum, a scalar tensor."""

    def forward(self, x: Tensor) -> Routing:
        """Choose for (batch, seq, d_model), or for (seq, d_model)."""
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.linear.weight.float())  # (..., seq, n_experts)
            scores = logits.sigmoid() if self.sigmoid else logits.softmax(dim=-1)
            if self.balance_price is not None and torch.is_grad_enabled():
                probabilities = scores / scores.sum(dim=-1, keepdim=True) if self.sigmoid else scores
            experts = (scores.detach() + self.expert_bias).topk(self.active, dim=-1).indices  # (..., seq, K)
            weights = scores.gather(-1, experts)
            if self.normalise:
                weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-20)
            if self.balance_price is not None and torch.is_grad_enabled():
                loss = self.balance_price * imbalance(probabilities, experts)
                weights = _AlsoMinimise.apply(weights, loss)  # type: ignore[no-untyped-call]
            return Routing(experts, weights * self.scale if self.scale != 1.0 else weights, scores)

    def report(self, output: Tensor, routing: Routing) -> Tensor:
        """``output``, (..., d_model), unchanged; with a ``load``, its backward pass adds the loads to ``load.grad``."""
        if self.load is None or not torch.is_grad_enabled():
            return output
        entropy = -(torch.xlogy(p := normalised(routing.scores.detach()), p)).sum(dim=-1)  # (...,)
        result: Tensor = _Counted.apply(output, self.load, routing.experts, entropy)  # type: ignore[no-untyped-call]
        return result

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        kind = "sigmoid" if self.sigmoid else "softmax"
        return f"{self.active} of {self.n_experts}, {kind}, normalised={self.normalise}"


def normalised(scores: Tensor) -> Tensor:
    """Scores as probabilities: (..., n_experts) that sum to 1."""
    return scores / scores.sum(dim=-1, keepdim=True).clamp(min=1e-20)


def imbalance(probabilities: Tensor, experts: Tensor) -> Tensor:
    """Switch's auxiliary loss, summed over tokens: n_experts x sum over experts of (share of choices x mean
    probability), times the tokens. It is 1 a token when balanced.

    Shares are taken within each sequence (as in DeepSeek-V3, section 2.1.2): then the sum over rows does not depend on
    how a batch is cut into micro-batches or over ranks.

    Args:
        probabilities: (..., seq, n_experts).
        experts: (..., seq, K).
    """
    count = probabilities.shape[-1]
    chosen = torch.zeros_like(probabilities).scatter_(-1, experts, 1.0 / experts.shape[-1])  # (..., seq, n_experts)
    share = chosen.mean(dim=-2)  # (..., n_experts)
    return count * (share * probabilities.sum(dim=-2)).sum()


class _AlsoMinimise(torch.autograd.Function):
    """``x``, unchanged; the backward pass is that of the sum of everything and ``loss``. So the loss that training
    reports stays the loss on text."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_ones(())


class _Counted(torch.autograd.Function):
    """``output``, unchanged; the "gradient" of ``load`` is how many tokens each expert had.

    A token counts if the loss depends on it: padding has a gradient of exactly zero.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, load: Tensor, experts: Tensor, entropy: Tensor) -> Tensor:
        ctx.save_for_backward(experts, entropy)
        ctx.size = load.shape[0]
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        experts, entropy = ctx.saved_tensors
        counts = (gradient != 0).any(dim=-1).float()  # (...,)
        load = counts.new_zeros(ctx.size)
        # Sums of ones are exact in float32 up to 2^24, so their order, which GPUs do not promise, changes nothing.
        load.scatter_add_(0, experts.flatten(), counts.unsqueeze(-1).expand_as(experts).flatten())
        load[-1] = (counts * entropy).sum()
        return gradient, load, None, None
