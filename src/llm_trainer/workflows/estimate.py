"""What a run will cost, before it starts: parameters, memory, time. Each figure says how it was made."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from llm_trainer.common.devices import matmul_peak, resolve_device
from llm_trainer.common.files import human_bytes
from llm_trainer.config import RunConfig
from llm_trainer.models.factory import build_model
from llm_trainer.training.precision import resolve_precision
from llm_trainer.workflows.footprint import Footprint, footprint
from llm_trainer.workflows.length_costs import describe_lengths
from llm_trainer.workflows.target import training_shape

ASSUMED_UTILISATION = 0.35
"""Share of the measured matrix-product rate that training is taken to reach; small models reach 25 to 45 %."""
BYTES_PER_TOKEN = 3.5
"""Text bytes per token before a tokenizer exists to measure with."""
USABLE = 0.9
"""Share of a memory that a step may take; Python, PyTorch, a driver's context and fragmentation need the rest."""


@dataclass(frozen=True)
class Estimate:
    """Costs of a run."""

    parameters: int
    flops_per_token: float
    tokens_per_second: float
    tokens: int | None
    seconds: float | None
    run: RunConfig = field(repr=False)

    @functools.cached_property
    def memory(self) -> Footprint:
        """Of one step, part by part; worked out when it is first asked for, which takes some seconds."""
        return memory_of(self.run)

    @property
    def memory_bytes(self) -> int:
        """The most that a step holds at once."""
        return self.memory.peak


def estimate(run: RunConfig, text_bytes: int | None) -> Estimate:
    """Work out the costs. Builds the model without memory (on the ``meta`` device) and times a matrix product."""
    config, length = training_shape(run)
    with torch.device("meta"):
        model = build_model(config)
    flops = model.flops_per_token(length)
    device = resolve_device(run.training.device)
    precision = resolve_precision(run.training, device)
    speed = ASSUMED_UTILISATION * matmul_peak(device, precision.dtype) / flops
    tokens = training_tokens(run, text_bytes, length)
    seconds = tokens / speed if tokens is not None else None
    if run.training.max_minutes is not None:
        limit = run.training.max_minutes * 60
        seconds = limit if seconds is None else min(seconds, limit)
    return Estimate(model.num_parameters(), flops, speed, tokens, seconds, run)


def memory_of(run: RunConfig) -> Footprint:
    """The memory of one step of a run on one device."""
    config, length = training_shape(run)
    device = resolve_device(run.training.device)
    precision = resolve_precision(run.training, device)
    return footprint(config, run.training, length, precision.format, device_type=device.type)


@dataclass(frozen=True)
class Fit:
    """A way to train, and what it takes."""

    changes: dict[str, object]
    """Settings of the training section that differ from the configuration's."""
    memory: Footprint

    def fits(self, size: int) -> bool:
        """Whether a step fits in ``size`` bytes."""
        return self.memory.peak <= USABLE * size


def ways_to_fit(run: RunConfig) -> list[Fit]:
    """The configuration as it is, then with less and less memory: the effective batch always stays the same."""
    single: dict[str, object] = {"batch_size": 1, "gradient_accumulation_steps": run.training.sequences_per_step()}
    recompute: dict[str, object] = {"gradient_checkpointing": True}
    wishes: list[dict[str, object]] = [{}, recompute, single, {**single, **recompute}]
    wishes.append({**single, **recompute, "optimizer": "adafactor"})
    found: list[Fit] = []
    for wish in wishes:
        changes = {name: value for name, value in wish.items() if getattr(run.training, name) != value}
        if changes not in [fit.changes for fit in found]:
            changed = run.model_copy(deep=True)
            for name, value in changes.items():
                setattr(changed.training, name, value)
            found.append(Fit(changes, memory_of(changed)))
    return found


def describe_fit(run: RunConfig, memories: Sequence[int]) -> str:
    """Where the memory of a step goes, and what it takes to train in each of ``memories`` (bytes)."""
    config, length = training_shape(run)
    precision = resolve_precision(run.training, resolve_device(run.training.device)).format
    with torch.device("meta"):
        parameters = build_model(config).num_parameters()
    fits = ways_to_fit(run)
    training = run.training
    lines = [
        f"{parameters:,} parameters; {training.batch_size} x {length:,} tokens a micro-step, "
        f"{training.gradient_accumulation_steps} of them a step; {training.optimizer}; {precision}",
        "",
        *memory_lines(fits[0].memory),
        "",
    ]
    labels = [
        " ".join(f"{name}={str(value).lower()}" for name, value in fit.changes.items()) or "as configured"
        for fit in fits
    ]
    width = max(map(len, labels))
    lines.append(f"{'':{width}}{'peak':>12}" + "".join(f"{human_bytes(size):>12}" for size in memories))
    for label, fit in zip(labels, fits):
        answers = "".join(f"{'fits' if fit.fits(size) else 'no':>12}" for size in memories)
        lines.append(f"{label:{width}}{human_bytes(fit.memory.peak):>12}{answers}")
    lines += ["", f"A step fits if it takes at most {USABLE:.0%} of the memory: the program itself needs some too."]
    lines += ["", *describe_lengths(run)]
    return "\n".join(lines)


def memory_lines(memory: Footprint) -> list[str]:
    """One line for each part, and the peak."""
    lines = [f"{name:<14}{human_bytes(size):>12}" for name, size in memory.parts().items()]
    return [*lines, f"{'peak':<14}{human_bytes(memory.peak):>12}"]


def training_tokens(run: RunConfig, text_bytes: int | None, length: int) -> int | None:
    """Tokens that the run will see, about; None if only the clock ends it, or if the amount of text is not known.

    Args:
        run: says when it ends.
        text_bytes: of the training text, if known.
        length: tokens of a sequence.
    """
    training = run.training
    from_steps = None
    if training.max_steps is not None:
        from_steps = training.max_steps * training.sequences_per_step() * length
    if training.num_epochs is None and (from_steps is not None or training.max_minutes is not None):
        return from_steps
    if text_bytes is None:
        return from_steps
    from_epochs = int(text_bytes / BYTES_PER_TOKEN * training.epoch_dataset_fraction) * (training.num_epochs or 1)
    return from_epochs if from_steps is None else min(from_epochs, from_steps)
