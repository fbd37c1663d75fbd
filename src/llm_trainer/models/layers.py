"""The small parts of a block: normalisation, activations and the feed-forward network."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_trainer.config import ModelConfig
from llm_trainer.models.activations import relu_squared
from llm_trainer.models.registry import lookup, register
from llm_trainer.models.rms_norm import rms_norm


class LayerNorm(nn.Module):
    """Subtract the mean, divide by the standard deviation, scale and shift (Ba et al. 2016,
    https://arxiv.org/abs/1607.06450). :func:`layer_norm_formula` is the readable twin of the fused kernel used here,
    which is 6 times as fast on a CPU (``benchmarks/kernels.py``).

    Args:
        width: size of the last dimension.
        eps: added to the variance.
        bias: whether there is a shift.
    """

    def __init__(self, width: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def reset_parameters(self) -> None:
        """Scale by 1, shift by 0."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> same shape."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, (self.width,), self.weight.to(x.dtype), bias, self.eps)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.width}, eps={self.eps}, bias={self.bias is not None}"


class RMSNorm(nn.Module):
    """Divide by the root mean square and scale: LayerNorm without mean and shift (Zhang & Sennrich 2019,
    https://arxiv.org/abs/1910.07467). :func:`rms_norm_formula` is the readable twin.

    Args:
        width: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width))

    def reset_parameters(self) -> None:
        """Scale by 1."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> same shape."""
        return rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.width}, eps={self.eps}"


def layer_norm_formula(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm written out, over the last dimension."""
    centred = x - x.mean(dim=-1, keepdim=True)
    normalised = centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + eps)
    return normalised * weight if bias is None else normalised * weight + bias


def rms_norm_formula(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm written out, over the last dimension."""
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


@register("norm", "layernorm")
def _layernorm(config: ModelConfig, width: int) -> LayerNorm:
    return LayerNorm(width, eps=config.norm_eps, bias=config.bias)


@register("norm", "rmsnorm")
def _rmsnorm(config: ModelConfig, width: int) -> RMSNorm:
    return RMSNorm(width, eps=config.norm_eps)


def build_norm(config: ModelConfig, width: int | None = None) -> nn.Module:
    """The normalisation that ``config.norm`` names, over ``width`` (``d_model`` when left out)."""
    return lookup("norm", config.norm)(config, width or config.d_model)


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's approximation of GELU: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "relu2": relu_squared,
    "silu": F.silu,
}

# What passes the gate of a gated network (Shazeer 2020, https://arxiv.org/abs/2002.05202).
GATES: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "geglu": F.gelu, "geglu_tanh": gelu_tanh}


def build_feed_forward(config: ModelConfig, layer_index: int) -> nn.Module:
    """The feed-forward network of a layer: what ``config.feed_forward`` names, or experts where this layer has some.

    A component of a person's own is used in every layer; it may read ``n_experts`` itself.
    """
    name = config.feed_forward
    if name in ("mlp", "moe"):
        name = "moe" if config.has_experts(layer_index) else "mlp"
    return lookup("feed_forward", name)(config)


@register("feed_forward", "mlp")
class FeedForward(nn.Module):
    """The position-wise network of a block.

    Plain: ``down(act(up(x)))``. Gated (swiglu, geglu): ``down(act(gate(x)) * up(x))``.

    Args:
        config: its ``d_model``, ``ffn_dim``, ``activation``, ``bias`` and ``residual_dropout`` count.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        gated = config.activation in GATES
        self.activation = GATES[config.activation] if gated else ACTIVATIONS[config.activation]
        self.gate_proj = nn.Linear(config.d_model, config.ffn_dim, bias=config.bias) if gated else None
        self.up_proj = nn.Linear(config.d_model, config.ffn_dim, bias=config.bias)
        self.down_proj = nn.Linear(config.ffn_dim, config.d_model, bias=config.bias)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) -> same shape."""
        if self.gate_proj is None:
            hidden = self.activation(self.up_proj(x))  # (batch, seq, ffn_dim)
        else:
            hidden = self.activation(self.gate_proj(x)) * self.up_proj(x)
        result: Tensor = self.dropout(self.down_proj(hidden))
        return result
