"""Rotary positions for texts longer than those of training.

A pair of numbers in a query or key turns by a fixed angle per token, its *frequency*. Beyond the length of training the
slow pairs reach angles that the model has never seen. Every method slows pairs down, so that those angles stay within
the known range, and they differ in which:

========  =====================================================================  =====================================
kind      which pairs are slowed down                                            source
========  =====================================================================  =====================================
linear    all, by the factor                                                     Chen et al. 2023, "position
                                                                                 interpolation",
                                                                                 https://arxiv.org/abs/2306.15595
ntk       the slowest by the factor, the fastest not at all, by a larger base    bloc97 2023, in Peng et al. 2023,
                                                                                 https://arxiv.org/abs/2309.00071
dynamic   as ntk, with the factor that the present length needs: none up to the  the same, section 3.3
          length of training
yarn      those that turn less than ``beta_slow`` times in training, by the      the same, section 3.2 and 3.4
          factor; those that turn more than ``beta_fast`` times, not at all;
          and attention gets a little sharper
llama3    as yarn, with a straight line in the number of turns between the two   Llama 3.1's published configuration
========  =====================================================================  =====================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_trainer.config import ModelConfig


@dataclass(frozen=True)
class Scaling:
    """How rotary positions are stretched."""

    kind: str
    """linear, ntk, dynamic, yarn or llama3."""
    factor: float
    """How many times longer texts are to be."""
    trained_length: int
    """Longest text of the training before, in tokens."""
    sharpness: float | None = None
    """yarn: cosines and sines are multiplied by it; None: 0.1 ln(factor) + 1."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by, so that scores are multiplied by its square."""
        if self.kind != "yarn":
            return 1.0
        if self.sharpness is not None:
            return self.sharpness
        return 0.1 * math.log(self.factor) + 1.0

    def frequencies(
        self, head_dim: int, theta: float, length: int | Tensor | None = None, device: torch.device | None = None
    ) -> Tensor:
        """Radians per token of every pair, (head_dim / 2,), in float32.

        Args:
            head_dim: width of a head.
            theta: base of the frequencies.
            length: of the text at hand, for ``dynamic``; None: that of training. A tensor, where reading its value
                would be a wait.
            device: of the result.
        """
        if self.kind == "ntk":
            theta = theta * self.factor ** (head_dim / (head_dim - 2))
        elif self.kind == "dynamic":
            reached = torch.as_tensor(self.trained_length if length is None else length, device=device)
            ratio = reached.clamp(min=self.trained_length).double() / self.trained_length
            larger = theta * (self.factor * ratio - (self.factor - 1)) ** (head_dim / (head_dim - 2))
            return plain_frequencies(head_dim, larger.float(), device)
        plain = plain_frequencies(head_dim, theta, device)
        if self.kind == "linear":
            return plain / self.factor
        if self.kind == "yarn":
            kept = self._yarn_kept(head_dim, theta, device)
        elif self.kind == "llama3":
            turns = self.trained_length * plain / (2 * math.pi)
            width = self.high_freq_factor - self.low_freq_factor
            kept = ((turns - self.low_freq_factor) / width).clamp(0, 1)
        else:
            return plain
        return plain * kept + plain / self.factor * (1 - kept)

    def _yarn_kept(self, head_dim: int, theta: float, device: torch.device | None) -> Tensor:
        """How much of each pair's frequency is kept, from 1 to 0: a straight line in the number of the pair."""

        def pair_that_turns(times: float) -> float:
            return head_dim * math.log(self.trained_length / (times * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(pair_that_turns(self.beta_fast)), 0)
        high: float = min(math.ceil(pair_that_turns(self.beta_slow)), head_dim - 1)
        if low == high:
            high += 0.001  # a step
        pair = torch.arange(head_dim // 2, dtype=torch.float32, device=device)
        return 1 - ((pair - low) / (high - low)).clamp(0, 1)


def plain_frequencies(head_dim: int, theta: float | Tensor, device: torch.device | None = None) -> Tensor:
    """theta^(-2i / head_dim) radians per token for pair i: (head_dim / 2,), float32."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    result: Tensor = 1.0 / theta**exponent
    return result


def rope_scaling(config: ModelConfig) -> Scaling | None:
    """The scaling that a configuration names; None if positions are as they were in training."""
    if config.rope_scaling is None:
        return None
    return Scaling(
        kind=config.rope_scaling,
        factor=config.rope_factor,
        trained_length=config.rope_trained_length,
        sharpness=config.rope_attention_factor,
        beta_fast=config.rope_beta_fast,
        beta_slow=config.rope_beta_slow,
        low_freq_factor=config.rope_low_freq_factor,
        high_freq_factor=config.rope_high_freq_factor,
    )
