"""Devices, ranks and the arithmetic peak of this machine. torch is imported inside the functions, because the command
line imports this package before it knows whether it needs torch at all."""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING

from llm_trainer.common.errors import UserError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """``"auto"`` is the best device there is; anything else must exist.

    Raises:
        UserError: the named device is unknown or not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"training.device: {name!r} is not a device", hint="use auto, cpu, cuda, cuda:1 or mps"
        ) from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"training.device: {name!r} is not a device to train on", hint="use auto, cpu, cuda or mps")
    missing = (device.type == "cuda" and not torch.cuda.is_available()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    missing = missing or (device.type == "cuda" and ":" in name and device.index >= torch.cuda.device_count())
    if missing:
        raise UserError(f"training.device is {name!r}, but PyTorch sees no such device here", hint="use device: auto")
    if name == "cuda":
        return torch.device("cuda", local_rank())
    return device


def available_cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def rank() -> int:
    """This process's number among all (``torchrun`` sets it)."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def matmul_peak(
    device: torch.device, dtype: torch.dtype, *, seconds: float = 0.25, size: int = 1024, typical: bool = False
) -> float:
    """The floating-point rate of a large matrix product here, in FLOP/s: the denominator of MFU on this machine.

    Vendors' peaks are not known for laptops; what a square product of ``size`` reaches is, after a quarter second.
    With ``typical``, the mean of all products instead of the fastest: what a busy machine gives.
    """
    import torch

    size = 4096 if device.type == "cuda" else size
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    a @ b
    synchronize()
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or not times:
        start = time.perf_counter()
        a @ b
        synchronize()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / (statistics.mean(times) if typical else min(times))
