"""Learning-rate schedules: pure functions of the step, so that resuming needs no state and plotting needs no run."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from llm_trainer.config import TrainingConfig

SCALE_WITHOUT_WARMUP = 10_000
"""inverse_sqrt without warm-up: steps after which the learning rate is 1/sqrt(2) of its peak, as in transformers."""


def resolve_warmup_steps(config: TrainingConfig, total_steps: int) -> int:
    """The configured warm-up, or its share of all steps; never more than all steps."""
    wanted = config.warmup_steps if config.warmup_steps is not None else round(config.warmup_ratio * total_steps)
    return min(wanted, total_steps)


def learning_rate_factor(config: TrainingConfig, step: float, total_steps: int, warmup_steps: int) -> float:
    """What the peak learning rate is multiplied by at ``step``.

    Warm-up rises from 0. After it, ``cosine``, ``linear`` and ``polynomial`` go down to ``min_learning_rate_ratio``;
    ``wsd`` stays at 1 and then goes down linearly over the last ``decay_ratio`` of all steps (Hägele et al. 2024,
    https://arxiv.org/abs/2405.18392); ``inverse_sqrt`` falls as 1/sqrt(step) and needs no end (Vaswani et al. 2017,
    section 5.3). All are the schedules of transformers of these names.

    Args:
        config: names the schedule and its numbers.
        step: 0 is the first update; between two steps where a schedule was stretched.
        total_steps: updates in the run.
        warmup_steps: updates of warm-up.
    """
    if step < warmup_steps:
        logarithmic = config.warmup_shape == "log"
        return math.log(step + 1) / math.log(max(2, warmup_steps)) if logarithmic else step / warmup_steps
    floor = config.min_learning_rate_ratio
    if config.lr_scheduler == "constant":
        return 1.0
    if config.lr_scheduler == "inverse_sqrt":
        scale = warmup_steps or SCALE_WITHOUT_WARMUP
        return max(floor, math.sqrt(scale / (step - warmup_steps + scale)))
    if config.lr_scheduler == "wsd":
        decay_steps = max(1, min(round(config.decay_ratio * total_steps), total_steps - warmup_steps))
        remaining = min(1.0, max(0.0, (total_steps - step) / decay_steps))
        return floor + (1 - floor) * remaining
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if config.lr_scheduler == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * progress))
    elif config.lr_scheduler == "linear":
        shape = 1 - progress
    else:
        shape = (1 - progress) ** config.polynomial_power
    return floor + (1 - floor) * shape


def create_scheduler(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, num_training_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The same schedule as a PyTorch scheduler, for loops of one's own.

    Args:
        optimizer: its groups' learning rates are the peaks.
        config: names the schedule.
        num_training_steps: updates in the run.
    """
    warmup = resolve_warmup_steps(config, num_training_steps)
    factor: Callable[[int], float] = lambda step: learning_rate_factor(config, step, num_training_steps, warmup)  # noqa: E731
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
