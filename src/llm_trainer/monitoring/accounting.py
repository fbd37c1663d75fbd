"""What a run made of its machine, in one line: speed, arithmetic, memory."""

from __future__ import annotations

import statistics

from llm_trainer.common.files import human_bytes
from llm_trainer.monitoring.metrics_file import MetricsLog

SCALES = ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"))


def resource_summary(log: MetricsLog) -> str | None:
    """``21,300 tokens/s, 109.8 GFLOP/s (36 % of the peak here), 1.2 GB of memory``: median speed, most memory.

    None for a run that logged nothing. The peak is what a large matrix product reached when the run began.
    """
    parts = []
    speeds = [value for _, value in log.series("train/tokens_per_second")]
    if speeds:
        parts.append(f"{statistics.median(speeds):,.0f} tokens/s")
    rates = [value for _, value in log.series("train/flops_per_second")]
    if rates:
        used = [value for _, value in log.series("train/mfu")]
        share = f" ({100 * statistics.median(used):.0f} % of the peak here)" if used else ""
        parts.append(human_flops(statistics.median(rates)) + share)
    memory = peak_memory(log)
    if memory is not None:
        parts.append(f"{human_bytes(memory[0])} of {memory[1]}")
    return ", ".join(parts) or None


def peak_memory(log: MetricsLog) -> tuple[float, str] | None:
    """The most memory in bytes and whose it was: the accelerator's if there was one, else the process's."""
    for name, whose in (("system/memory_device", "GPU memory"), ("system/memory_peak", "memory")):
        values = [value for _, value in log.series(name)]
        if values:
            return max(values), whose
    return None


def human_flops(rate: float) -> str:
    """``1.098e11`` -> ``'109.8 GFLOP/s'``."""
    for size, unit in SCALES:
        if rate >= size:
            return f"{rate / size:.1f} {unit}"
    return f"{rate:,.0f} FLOP/s"
