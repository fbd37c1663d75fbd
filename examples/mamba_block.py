"""A block of your own, 1: Mamba, a selective state space (Gu & Dao 2023, https://arxiv.org/abs/2312.00752).

Nothing of it is in the program. A configuration names this file and the block that it registers:

    llm-trainer train model.extensions=[examples/mamba_block.py] model.block=mamba model.position=none

Each of ``2 d_model`` channels keeps a state of 16 numbers. A token decides how much of it is forgotten, what is written
to it and what is read from it; so a text costs time in proportion to its length, and no token looks at another.

Generation reads the whole text at every step: the block says nothing of ``supports_cache``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_trainer.config import ModelConfig
from llm_trainer.models import register
from llm_trainer.models.context import AttentionContext
from llm_trainer.models.layers import build_norm
from llm_trainer.models.roles import Role

STATE = 16
"""Numbers that a channel remembers."""
EXPAND = 2
"""Channels for each one of d_model."""
TAPS = 4
"""Tokens that the short convolution sees."""
CHUNK = 32
"""Tokens that are scanned together."""


def selective_scan(decay: Tensor, update: Tensor) -> Tensor:
    """``h[t] = decay[t] * h[t - 1] + update[t]``, token by token. The definition, for reading and for checking.

    Args:
        decay: (batch, seq, channels, state), from 0 to 1.
        update: the same shape.

    Returns:
        All states, the same shape.
    """
    state = torch.zeros_like(update[:, 0])
    states = []
    for t in range(update.shape[1]):
        state = decay[:, t] * state + update[:, t]
        states.append(state)
    return torch.stack(states, dim=1)


def chunked_scan(decay: Tensor, update: Tensor, chunk: int = CHUNK) -> Tensor:
    """:func:`selective_scan` with ``chunk`` tokens at a time.

    Two steps of the recurrence are one step: (a1, u1) then (a2, u2) is (a1 a2, a2 u1 + u2). So within all chunks at
    once the distance that each entry covers doubles, five times for 32 tokens; what is left is a loop over chunks.
    Decays are at most 1, so nothing can overflow.
    """
    batch, seq, *rest = update.shape
    padding = -seq % chunk
    decay = F.pad(decay, (0, 0) * len(rest) + (0, padding)).view(batch, -1, chunk, *rest)
    update = F.pad(update, (0, 0) * len(rest) + (0, padding)).view(batch, -1, chunk, *rest)
    reach = 1
    while reach < chunk:
        earlier = (0, 0) * len(rest) + (reach, 0)
        update = update + decay * F.pad(update[:, :, :-reach], earlier)
        decay = decay * F.pad(decay[:, :, :-reach], earlier, value=1.0)
        reach *= 2
    state = torch.zeros_like(update[:, 0, 0])
    entering = []
    for number in range(update.shape[1]):
        entering.append(state)
        state = decay[:, number, -1] * state + update[:, number, -1]
    states = update + decay * torch.stack(entering, dim=1).unsqueeze(2)
    return states.flatten(1, 2)[:, :seq]


def document_starts(context: AttentionContext, seq: int) -> Tensor | None:
    """The index at which each token's text begins, (batch, seq); None if every row is one text without padding."""
    rules = context.visibility
    if rules is None or (rules.starts is None and rules.attention_mask is None):
        return None
    return torch.arange(seq, device=rules.device) - rules.places()


@register("block", "mamba")
class MambaBlock(nn.Module):
    """``x + mixer(norm(x))``; the mixer is all there is, without a feed-forward network.

    Args:
        config: its ``d_model``, ``norm`` and ``residual_dropout`` count. A layer has about 6 d_model^2 weights, half of
            what a transformer's has.
        layer_index: not used.
    """

    def __init__(self, config: ModelConfig, layer_index: int) -> None:
        super().__init__()
        channels = EXPAND * config.d_model
        self.rank = math.ceil(config.d_model / 16)
        self.norm = build_norm(config)
        self.in_proj = nn.Linear(config.d_model, 2 * channels, bias=False)
        self.taps = nn.Parameter(torch.empty(TAPS, channels).uniform_(-1, 1) / math.sqrt(TAPS))
        self.x_proj = nn.Linear(channels, self.rank + 2 * STATE, bias=False)
        self.step_proj = nn.Linear(self.rank, channels, bias=False)
        # Steps from 0.001 to 0.1 at first, before a token has its say (section 3.6 and the published code).
        step = torch.exp(torch.rand(channels) * math.log(100.0) + math.log(0.001))
        self.step_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        self.log_rate = nn.Parameter(torch.log(torch.arange(1.0, STATE + 1)).repeat(channels, 1))
        self.skip = nn.Parameter(torch.ones(channels))
        self.o_proj = nn.Linear(channels, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.residual_dropout)

    def parameter_roles(self) -> dict[str, Role]:
        """What does not multiply hidden states as a matrix does: no weight decay, and nothing for Muon."""
        return {"taps": "vector", "log_rate": "vector"}

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """(batch, seq, d_model) -> same shape."""
        starts = document_starts(context, x.shape[1])
        inner, gate = self.in_proj(self.norm(x)).chunk(2, dim=-1)  # (batch, seq, channels) each
        inner = F.silu(self._convolve(inner, starts))
        mixed = self._mix(inner, starts) * F.silu(gate)
        return x + self.dropout(self.o_proj(mixed))

    def _convolve(self, x: Tensor, starts: Tensor | None) -> Tensor:
        """Each channel's weighted sum over a token and the ``TAPS - 1`` before it in its text."""
        taps = self.taps.to(x.dtype)
        result = x * taps[0]
        for back in range(1, min(TAPS, x.shape[1])):
            earlier = F.pad(x[:, :-back], (0, 0, back, 0))
            if starts is not None:
                place = torch.arange(x.shape[1], device=x.device) - starts
                earlier = earlier * (place >= back).unsqueeze(-1)
            result = result + earlier * taps[back]
        return result

    def _mix(self, x: Tensor, starts: Tensor | None) -> Tensor:
        """Run the state space over (batch, seq, channels), in float32: a state is a sum over the whole text."""
        step, write, read = self.x_proj(x).split([self.rank, STATE, STATE], dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            steps = F.softplus(F.linear(step.float(), self.step_proj.weight) + self.step_bias)  # (batch, seq, channels)
            decay = torch.exp(steps.unsqueeze(-1) * -torch.exp(self.log_rate))  # (batch, seq, channels, state)
            if starts is not None:
                first = torch.arange(x.shape[1], device=x.device) == starts
                decay = decay.masked_fill(first[..., None, None], 0.0)
            update = (steps * x.float()).unsqueeze(-1) * write.float().unsqueeze(-2)
            states = chunked_scan(decay, update)
            y = (states @ read.float().unsqueeze(-1)).squeeze(-1) + self.skip * x.float()
        return y.to(x.dtype)
