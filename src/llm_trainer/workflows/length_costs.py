"""What longer sequences would cost: attention's share of the arithmetic, and the memory of one sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llm_trainer.common.devices import resolve_device
from llm_trainer.common.files import human_bytes
from llm_trainer.config import RunConfig
from llm_trainer.models.factory import build_model
from llm_trainer.training.precision import resolve_precision
from llm_trainer.workflows.footprint import footprint
from llm_trainer.workflows.target import training_shape

TIMES = (1, 2, 4, 8)


@dataclass(frozen=True)
class LengthCost:
    """Of training on sequences of one length."""

    length: int
    """Tokens."""
    flops_per_token: int
    attention: float
    """Share of them that is spent on scores, which every token has with all others in its view."""
    activations: int
    """Bytes that one sequence keeps for the backward pass."""


def length_costs(run: RunConfig) -> list[LengthCost]:
    """The costs at the configured length and at 2, 4 and 8 times that. Nothing is allocated."""
    config, length = training_shape(run)
    device = resolve_device(run.training.device)
    precision = resolve_precision(run.training, device).format
    training = run.training.model_copy(update={"batch_size": 1})
    costs = []
    for times in TIMES:
        longer = times * length
        shape = config.model_copy(update={"max_seq_len": max(config.max_seq_len, longer)})
        with torch.device("meta"):
            model = build_model(shape)
        flops = model.flops_per_token(longer)
        scores = flops - model.flops_per_token(0)
        held = footprint(shape, training, longer, precision, device_type=device.type).activations
        costs.append(LengthCost(longer, flops, scores / flops, held))
    return costs


def describe_lengths(run: RunConfig) -> list[str]:
    """A table of :func:`length_costs`."""
    lines = [f"{'sequences of':<14}{'arithmetic':>18}{'attention':>12}{'activations':>14}"]
    for cost in length_costs(run):
        flops = f"{cost.flops_per_token / 1e6:,.1f} MFLOP/token"
        lines.append(f"{cost.length:<14,}{flops:>18}{cost.attention:>12.0%}{human_bytes(cost.activations):>14}")
    return [*lines, "Activations are those of one sequence; attention is the part that grows with its square."]
