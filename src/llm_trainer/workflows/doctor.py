"""Look at this machine with the eyes of someone who wants to train on it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from llm_trainer.common.devices import matmul_peak, resolve_device
from llm_trainer.common.files import human_bytes
from llm_trainer.common.optional import available
from llm_trainer.monitoring.system import environment
from llm_trainer.training.modules import compiler_problem

Level = Literal["good", "note", "problem"]
OPTIONAL = {
    "transformers": "hf",
    "datasets": "hf",
    "tensorboard": "tracking",
    "wandb": "tracking",
    "matplotlib": "plots",
}
LEAST_MEMORY = 2 << 30
LEAST_DISK = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    topic: str
    text: str


def examine() -> list[Finding]:
    """Everything that training depends on. Takes some seconds, or half a minute where the compiler is cold."""
    device = resolve_device("auto")
    cpu = environment()["cpu"]
    findings = [
        Finding("good", "Python", f"{sys.version.split()[0]} on {platform.system()} {platform.machine()}"),
        Finding("good", "PyTorch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        Finding("good", "processor", f"{cpu.get('model') or platform.processor()}, {os.cpu_count()} cores"),
        _memory(),
        _disk(),
        Finding("good", "device", "CPU" if device.type == "cpu" else f"{device} ({_device_name(device)})"),
        *_speed(device),
        _compiler(device),
    ]
    missing = sorted({extra for package, extra in OPTIONAL.items() if not available(package)})
    if missing:
        extras = ",".join(missing)
        findings.append(Finding("note", "packages", f"optional ones are missing: pip install 'llm-trainer[{extras}]'"))
    else:
        findings.append(Finding("good", "packages", "all optional packages are installed"))
    return findings


def format_findings(findings: list[Finding]) -> str:
    """One line each, what is wrong marked."""
    marks = {"good": "ok  ", "note": "note", "problem": "BAD "}
    return "\n".join(f"{marks[finding.level]}  {finding.topic:<10} {finding.text}" for finding in findings)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    text = f"{human_bytes(memory.available)} free of {human_bytes(memory.total)}"
    if memory.available < LEAST_MEMORY:
        return Finding("problem", "memory", f"{text}; the quickstart needs {human_bytes(LEAST_MEMORY)}")
    return Finding("good", "memory", text)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    if free < LEAST_DISK:
        return Finding("problem", "disk", f"{human_bytes(free)} free here; {human_bytes(LEAST_DISK)} are needed")
    if not os.access(Path.cwd(), os.W_OK):
        return Finding("problem", "disk", "the current folder cannot be written; runs/ and cache/ go here by default")
    return Finding("good", "disk", f"{human_bytes(free)} free here")


def _speed(device: torch.device) -> list[Finding]:
    """Measured matrix products, because what a processor claims and what PyTorch reaches on it differ."""
    single = matmul_peak(device, torch.float32)
    half = matmul_peak(device, torch.bfloat16)
    text = f"matrix products: float32 {single / 1e9:,.0f} GFLOP/s, bfloat16 {half / 1e9:,.0f} GFLOP/s"
    advice = "; precision: auto takes bfloat16" if half > 1.5 * single and device.type == "cpu" else ""
    return [Finding("good", "speed", text + advice)]


def _compiler(device: torch.device) -> Finding:
    problem = compiler_problem(device)
    if problem is None:
        return Finding("good", "compiler", "torch.compile works")
    return Finding("note", "compiler", f"torch.compile does not work here ({problem}); training runs uncompiled")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
