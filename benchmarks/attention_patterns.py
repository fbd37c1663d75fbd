"""Attention alone, forward and backward, at some length: patterns against full causal attention, side by side.

    python benchmarks/attention_patterns.py [LENGTH]

On a CPU with one thread, float32, through our kernel; on a GPU in bfloat16, through FlexAttention. Prints a table and,
last, one JSON line. ``keys`` is how many keys a query sees at most; ``ratio`` is the time relative to full attention.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from llm_trainer.models.attention import fused_attention
from llm_trainer.models.context import AttentionContext
from llm_trainer.models.flex import flex_attention
from llm_trainer.models.patterned_attention import patterned_attention
from llm_trainer.models.patterns import EVERYTHING, AttentionPattern

HEADS, HEAD_DIM, ROUNDS = 8, 64, 5
PATTERNS = {
    "full": EVERYTHING,
    "window 256": AttentionPattern(window=256),
    "window 1024": AttentionPattern(window=1024),
    "window 256 + 16 global": AttentionPattern(window=256, global_tokens=16),
    "blocks of 64, every 8th": AttentionPattern(block=64, stride=8),
}


def measure(length: int, device: torch.device) -> dict[str, Any]:
    """The median milliseconds of each pattern over rounds that take turns, after one to warm up."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape = (1, HEADS, length, HEAD_DIM)
    leaves = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    times: dict[str, list[float]] = {name: [] for name in PATTERNS}
    for turn in range(ROUNDS + 1):
        for name, pattern in PATTERNS.items():
            seconds = _seconds(_kernel(pattern, leaves, device), device)
            if turn:
                times[name].append(1000 * seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "length": length,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "patterns": {
            name: {
                "keys": pattern.keys_per_query(length),
                "milliseconds": round(medians[name], 1),
                "ratio": round(medians[name] / medians["full"], 3),
            }
            for name, pattern in PATTERNS.items()
        },
    }


def _kernel(pattern: AttentionPattern, leaves: Sequence[Tensor], device: torch.device) -> Callable[[], Tensor]:
    query, key, value = leaves
    if device.type == "cuda" and pattern != EVERYTHING:
        return lambda: flex_attention(query, key, value, AttentionContext(), pattern)
    if pattern == EVERYTHING:
        return lambda: fused_attention(query, key, value, mask=None, causal=True, dropout=0.0)
    return lambda: patterned_attention(query, key, value, pattern, causal=True)


def _seconds(kernel: Callable[[], Tensor], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    kernel().sum().backward()  # type: ignore[no-untyped-call]
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure, and print."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    result = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 4096, device)
    print(f"{'pattern':<26}{'keys':>6}{'ms':>10}{'ratio':>8}")
    for name, row in result["patterns"].items():
        print(f"{name:<26}{row['keys']:>6}{row['milliseconds']:>10}{row['ratio']:>8}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
