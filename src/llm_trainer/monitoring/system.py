"""What a run ran on: enough to compare two runs and to repeat one, nothing that names a person or a machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

# Instructions that decide how fast matrices are multiplied on a CPU.
CPU_FLAGS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")
PACKAGES = (
    "llm-trainer",
    "torch",
    "numpy",
    "pydantic",
    "safetensors",
    "tokenizers",
    "tiktoken",
    "transformers",
    "datasets",
    "tensorboard",
    "wandb",
)


def environment() -> dict[str, Any]:
    """Software and hardware of this process, as plain JSON data (sizes in bytes)."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "memory_bytes": psutil.virtual_memory().total,
        "torch": _torch(),
        "packages": _packages(),
        "git": _git(),
    }


def memory_rss() -> int:
    """Bytes of memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


_most_seen = 0


def memory_peak() -> int:
    """The most bytes of memory that this process has held so far; on macOS, which does not keep the figure where psutil
    could read it, the most that any call has seen."""
    global _most_seen
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux it begins with what the parent held when it started this process.
        for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    _most_seen = max(_most_seen, memory_rss())
    return _most_seen


def device_memory() -> int:
    """The most bytes that torch has held on one accelerator so far; 0 without one, or if torch was never imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return 0
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return max(int(torch.cuda.max_memory_allocated(index)) for index in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        return int(torch.mps.driver_allocated_memory())
    return 0


def _cpu() -> dict[str, Any]:
    model, flags = platform.processor(), set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        fields: dict[str, str] = {}
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
        model = fields.get("model name", model)
        flags = set(fields.get("flags", fields.get("Features", "")).split())
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "model": model or platform.machine(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": os.cpu_count(),
        "usable_cores": len(affinity(0)) if affinity else os.cpu_count(),
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
    }


def _torch() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    devices = []
    for index in range(torch.cuda.device_count() if cuda else 0):
        properties = torch.cuda.get_device_properties(index)
        devices.append({"name": properties.name, "memory_bytes": properties.total_memory})
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cuda": torch.version.cuda if cuda else None,
        "mps": torch.backends.mps.is_available(),
        "devices": devices,
        "bf16": torch.cuda.is_bf16_supported() if cuda else bool({"avx512_bf16", "amx_bf16"} & set(_cpu()["flags"])),
    }


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git() -> dict[str, Any] | None:
    """Commit of the working folder and whether it has changes; ``None`` outside a repository or without git."""
    commit = _run_git("rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _run_git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _run_git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
