"""What all benchmarks share: fresh processes, clocks, memory, peaks, medians, a table, and JSON on the last line."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch

# This folder is searched last: a script in it may have the name of a package, as tokenizers.py does.
HERE = str(Path(__file__).parent)
sys.path[:] = [*(entry for entry in sys.path if entry != HERE), HERE]

T = TypeVar("T")
ALLOCATOR_VARIABLES = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_")
"""Beginnings of the variables that choose or tune malloc; nobody inherits them from the shell by accident."""
MALLOC_TUNING = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4294967296:"
    "glibc.malloc.trim_threshold=17179869184:"
    "glibc.malloc.top_pad=268435456"
}
"""Keep freed memory instead of giving every large tensor back to the system and asking for it again."""


class Stamp(NamedTuple):
    """A moment, in seconds."""

    wall: float
    cpu: float
    """Processor time of all threads of this process, which hardly changes when other programs run beside it."""


def now() -> Stamp:
    """This moment."""
    return Stamp(time.perf_counter(), time.process_time())


def fail(message: str) -> NoReturn:
    """Stop with one message for the person."""
    sys.exit(f"error: {message}")


# ---------------------------------------------------------------------- processes


def clean_environment(threads: int, **more: str) -> dict[str, str]:
    """The environment of a run: this one without malloc settings, with a fixed number of threads, without a network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ALLOCATOR_VARIABLES)}
    fixed = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    return {**kept, **fixed, "TOKENIZERS_PARALLELISM": "false", **more}


def run_process(
    command: Sequence[str], environment: Mapping[str, str], *, name: str, folder: Path | None = None
) -> dict[str, Any]:
    """Run one process to its end.

    Args:
        command: what to run; it prints one JSON object on its last line.
        environment: its whole environment.
        name: what to call it when it fails.
        folder: its working folder.

    Returns:
        That object.
    """
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=dict(environment), cwd=folder)
    if done.returncode != 0:
        fail(f"{name} ended with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    lines = done.stdout.splitlines()
    if not lines or not lines[-1].startswith("{"):
        fail(f"{name} printed no result:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def run_python(
    script: Path, spec: Mapping[str, Any], environment: Mapping[str, str], *, name: str, folder: Path | None = None
) -> dict[str, Any]:
    """Run a script of ours in a fresh process, with one JSON object in and one out."""
    return run_process([sys.executable, str(script), json.dumps(spec)], environment, name=name, folder=folder)


def in_turns(names: Sequence[T], round_number: int) -> list[T]:
    """The same names, beginning with another one each round, so that none is always first."""
    first = round_number % max(1, len(names))
    return [*names[first:], *names[:first]]


# ---------------------------------------------------------------------- measures


def peak_memory() -> int:
    """The largest resident set of this process so far, in bytes.

    Linux: VmHWM, which begins anew with each program. ``ru_maxrss`` would count the parent's memory too, because a
    child is a copy of it for a moment.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if platform.system() == "Darwin" else largest * 1024


def matmul_peaks(device: str, threads: int) -> dict[str, float]:
    """What large matrix products reach here and now, in FLOP/s, for float32 and bfloat16."""
    from llm_trainer.common.devices import matmul_peak

    torch.set_num_threads(threads)
    where = torch.device(device)
    peaks = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        # Without hardware for it, one bfloat16 product of 2048 would take a minute on some processors.
        small = matmul_peak(where, dtype, seconds=0.1, size=512)
        large = matmul_peak(where, dtype, seconds=0.5, size=2048) if small > 20e9 else 0.0
        peaks[name] = max(small, large)
    return peaks


def summarise(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median, smallest and largest."""
    whole = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in whole.items()}


def machine(threads: int) -> dict[str, Any]:
    """Where it was measured."""
    graphics = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "threads": threads,
        "cores": os.cpu_count(),
        "gpu": graphics,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# ---------------------------------------------------------------------- output


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows of equal length, the first one the heading; the first column to the left, the others to the right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        first = row[0].ljust(widths[0])
        print("  ".join([first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]))


def default_threads() -> int:
    """Two, as on the laptop that the project is for, or what there is."""
    return min(2, os.cpu_count() or 1)
