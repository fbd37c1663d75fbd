"""Number formats: what to compute in, and the loss scaling that float16 needs."""

from __future__ import annotations

import contextlib
import functools
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from llm_trainer.common.devices import matmul_peak
from llm_trainer.config import TrainingConfig

Format = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The format of matrix products; weights and optimizer state stay in float32."""

    format: Format
    device_type: str
    reason: str
    needs_telling: bool = False
    """Whether it is not what was asked for."""

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of :attr:`format`."""
        return DTYPES[self.format]

    @classmethod
    def saved(cls, name: str, device_type: str) -> Precision:
        """The format that a checkpoint was trained in."""
        return cls(cast(Format, name), device_type, "the format of the checkpoint")

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that forward passes run in."""
        if self.format == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    @property
    def needs_scaler(self) -> bool:
        """float16 gradients underflow without a loss scale; bfloat16 has float32's range."""
        return self.format == "fp16"


def resolve_precision(config: TrainingConfig, device: torch.device) -> Precision:
    """Decide the format from the configuration and the device.

    float16 is computed on a CUDA device only; elsewhere it becomes bfloat16, which needs no scaling, and the reason
    says so. ``auto`` is bfloat16 on GPUs that have it; on a CPU it is what a short measurement says, because some
    processors compute bfloat16 several times faster than float32 and others hundreds of times slower. Training times
    whole steps instead (``tuning.py``); this is for everything else.
    """
    wanted, reason = _wanted(config)
    bf16_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if wanted == "auto":
        if device.type == "cuda":
            return Precision("bf16" if bf16_gpu else "fp16", "cuda", "mixed precision is the default on a GPU")
        return _probe_cpu() if device.type == "cpu" else Precision("fp32", device.type, "float32 is the default here")
    if wanted == "amp":
        if device.type == "cuda" and not bf16_gpu:
            return Precision("fp16", "cuda", f"{reason}; this GPU has no bfloat16", needs_telling=True)
        return Precision("bf16", device.type, reason)
    if wanted == "fp16" and device.type != "cuda":
        return Precision("bf16", device.type, f"{reason}, but float16 needs a GPU", needs_telling=True)
    return Precision(cast(Format, wanted), device.type, reason)


def format_is_free(config: TrainingConfig) -> bool:
    """Whether the configuration leaves the format open, under all of its names."""
    return _wanted(config)[0] == "auto"


WORTHWHILE = 1.5
"""bfloat16 has to be this much faster than float32 in matrix products: casting costs something too."""


@functools.cache
def _probe_cpu() -> Precision:
    """Time both formats for a fraction of a second, once in a process."""
    cpu = torch.device("cpu")
    single = matmul_peak(cpu, torch.float32, seconds=0.15, size=768)
    half = matmul_peak(cpu, torch.bfloat16, seconds=0.15, size=768)
    measured = f"{half / 1e9:,.0f} GFLOP/s in bfloat16, {single / 1e9:,.0f} in float32, measured now"
    return Precision("bf16" if half > WORTHWHILE * single else "fp32", "cpu", measured)


def _wanted(config: TrainingConfig) -> tuple[str, str]:
    if config.use_accelerate and config.accelerate_mixed_precision is not None:
        name = config.accelerate_mixed_precision
        return ("fp32" if name == "no" else name), f"accelerate_mixed_precision: {name}"
    if config.precision != "auto":
        return config.precision, f"precision: {config.precision}"
    if config.use_amp is not None:
        return ("amp" if config.use_amp else "fp32"), f"use_amp: {str(config.use_amp).lower()}"
    return "auto", ""


class LossScaler:
    """Loss scaling for float16 (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740).

    Losses are multiplied by :attr:`scale` so that small gradients do not vanish; a step whose gradients overflow is
    skipped. A dynamic scale halves at the ``hysteresis``-th overflow and at every one after it, and ``window`` good
    steps in a row double it and forgive the overflows before. With hysteresis 1 this is ``torch.amp.GradScaler``;
    names, defaults and hysteresis are DeepSpeed's.

    Args:
        enabled: without it the scale is 1 and stays so.
        scale: where a dynamic scale begins.
        dynamic: False keeps the scale as it is.
        window: good steps in a row before the scale doubles.
        hysteresis: overflows before it halves.
        minimum: it never goes below.
    """

    def __init__(
        self,
        enabled: bool,
        scale: float = 2.0**16,
        *,
        dynamic: bool = True,
        window: int = 1000,
        hysteresis: int = 2,
        minimum: float = 1.0,
    ) -> None:
        self.enabled = enabled
        self.dynamic = dynamic
        self.scale = scale if enabled else 1.0
        self.window = window
        self.hysteresis = hysteresis
        self.minimum = minimum
        self.good_steps = 0
        self.overflows_left = hysteresis

    @classmethod
    def from_config(cls, config: TrainingConfig, *, enabled: bool) -> LossScaler:
        """The scaler that a configuration describes: ``loss_scale`` 0 is dynamic, anything else is kept."""
        return cls(
            enabled,
            config.loss_scale or 2.0**config.initial_scale_power,
            dynamic=config.loss_scale == 0,
            window=config.loss_scale_window,
            hysteresis=config.hysteresis,
            minimum=config.min_loss_scale,
        )

    def update(self, *, overflow: bool) -> None:
        """Tell the scaler how the step went."""
        if not (self.enabled and self.dynamic):
            return
        if overflow:
            self.good_steps = 0
            self.overflows_left -= 1
            if self.overflows_left < 1:
                self.overflows_left = 1
                self.scale = max(self.minimum, self.scale / 2)
            return
        self.good_steps += 1
        if self.good_steps % self.window == 0:
            self.scale *= 2
            self.overflows_left = self.hysteresis

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"scale": self.scale, "good_steps": self.good_steps, "overflows_left": self.overflows_left}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a checkpoint. A fixed scale is the configuration's, not the checkpoint's."""
        if self.enabled and self.dynamic:
            self.scale, self.good_steps = state["scale"], int(state["good_steps"])
            self.overflows_left = int(state.get("overflows_left", self.hysteresis))
