"""The largest micro-batch that fits in memory, and the fastest: found by training a few steps with each."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil
import torch

from llm_trainer.common.devices import resolve_device
from llm_trainer.common.errors import UserError
from llm_trainer.common.files import human_bytes
from llm_trainer.config import RunConfig
from llm_trainer.training.microbatch import keep_effective_batch
from llm_trainer.training.precision import resolve_precision
from llm_trainer.workflows.batch_trial import Trial, try_here
from llm_trainer.workflows.target import training_shape

Attempt = Callable[[int], Trial]
FREE_SHARE = 0.8
"""Without a limit, this share of the memory that is free now: a machine that swaps helps nobody."""
LEAST_CEILING = 64
"""The search goes this far even if the effective batch is smaller."""
RESOLUTION = 16
"""The largest size is found to one part in this, and exactly up to this."""
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class BatchSizes:
    """What was found."""

    trials: list[Trial]
    """In the order of their size."""
    effective: int
    """Sequences per step, which stay as they are."""
    ceiling: int
    """No larger one was tried."""

    @property
    def largest(self) -> Trial:
        """The largest that fits."""
        return max((trial for trial in self.trials if trial.fits), key=lambda trial: trial.batch_size)

    @property
    def fastest(self) -> Trial:
        """The fastest that fits."""
        return max((trial for trial in self.trials if trial.fits), key=lambda trial: trial.tokens_per_second)

    def summary(self) -> str:
        """The result, and the lines for the configuration."""
        size, steps = keep_effective_batch(self.effective, self.fastest.batch_size)
        lines = [
            f"largest: batch_size {self.largest.batch_size} ({human_bytes(self.largest.peak)})",
            f"fastest: batch_size {self.fastest.batch_size} ({self.fastest.tokens_per_second:,.0f} tokens/s)",
        ]
        if self.largest.batch_size == self.ceiling:
            lines.append(f"memory was not the limit: {self.ceiling} was the most to be tried; --most tries more")
        lines += [
            "",
            f"For the configuration, with {self.effective} sequences a step as before:",
            "",
            "training:",
            f"  batch_size: {size}",
            f"  gradient_accumulation_steps: {steps}",
        ]
        return "\n".join(lines)


def find_batch_size(
    run: RunConfig, *, memory: int | None = None, most: int | None = None, echo: Callable[[str], None] = print
) -> BatchSizes:
    """Try micro-batches of growing size on this machine.

    On a CPU each trial is a process, which is ended when it holds more than ``memory``; on a GPU the allocator says
    what does not fit.

    Args:
        run: shape and settings; its effective batch is kept.
        memory: bytes that training may use. Left out: most of what is free on a CPU, all of a GPU.
        most: the largest size to try; left out, the effective batch, or 64 if that is more.
        echo: called with each line of a table.

    Raises:
        UserError: not one sequence fits, or the device cannot be measured.
    """
    device = resolve_device(run.training.device)
    run = run.model_copy(deep=True)
    if run.training.precision == "auto" and run.training.use_amp is None and not run.training.use_accelerate:
        # Measured once, or trials could compute in different formats.
        run.training.precision = resolve_precision(run.training, device).format
    effective = run.training.sequences_per_step()
    ceiling = most or max(effective, LEAST_CEILING)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        limit = min(memory or total, total)
        torch.cuda.set_per_process_memory_fraction(limit / total, device)
        attempt: Attempt = lambda rows: try_here(run, rows)  # noqa: E731
    elif device.type == "cpu":
        limit = memory or int(FREE_SHARE * psutil.virtual_memory().available)
        attempt = lambda rows: try_in_process(run, rows, limit)  # noqa: E731
    else:
        raise UserError(f"memory on {device.type} cannot be measured", hint="use training.device=cpu or cuda")
    echo(f"memory: {human_bytes(limit)} on {device}")
    echo(f"{'batch_size':>10}  {'peak memory':>12}  {'tokens/s':>10}")

    def told(rows: int) -> Trial:
        trial = attempt(rows)
        result = f"{trial.tokens_per_second:>10,.0f}" if trial.fits else f"{'too large':>10}"
        echo(f"{rows:>10}  {human_bytes(trial.peak):>12}  {result}")
        return trial

    trials = search(told, ceiling)
    if not trials[0].fits:
        raise UserError(
            f"not even one sequence fits in {human_bytes(limit)}",
            hint="set training.gradient_checkpointing=true, or lower data.max_length or the size of the model",
        )
    return BatchSizes(trials, effective, ceiling)


def search(attempt: Attempt, ceiling: int) -> list[Trial]:
    """Double from 1 until a size does not fit, then halve the gap; all trials, in the order of their size.

    Args:
        attempt: tries one size.
        ceiling: the largest size to try.
    """
    trials: list[Trial] = []
    good, bad, rows = 0, ceiling + 1, 1
    # As long as nothing was too large, double; the ceiling itself is a size worth knowing.
    while good < ceiling and (bad > ceiling or bad - good > max(1, good // RESOLUTION)):
        trial = attempt(rows)
        trials.append(trial)
        good, bad = (rows, bad) if trial.fits else (good, rows)
        rows = min(2 * good, ceiling) if bad > ceiling else (good + bad) // 2
    return sorted(trials, key=lambda trial: trial.batch_size)


def try_in_process(run: RunConfig, rows: int, limit: int) -> Trial:
    """One trial in a process of its own, which is ended as soon as it holds more than ``limit`` bytes."""
    shape, length = training_shape(run)
    sections = {"model": shape.to_dict(), "data": {"max_length": length}, "training": run.training.to_dict()}
    request = json.dumps({"run": sections, "rows": rows})
    command = [sys.executable, "-m", "llm_trainer.workflows.batch_trial"]
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as problems:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=answer, stderr=problems)
        try:
            assert child.stdin is not None
            child.stdin.write(request.encode())
            child.stdin.close()
            seen = _watch(child, limit)
        finally:
            # Also on Ctrl-C: nothing is left running.
            child.kill()
            child.wait()
        if seen > limit or child.returncode in (-9, 137):
            return Trial(rows, False, seen, 0.0)
        answer.seek(0)
        problems.seek(0)
        lines = answer.read().decode().splitlines()
        if child.returncode != 0 or not lines:
            raise RuntimeError(f"the trial of {rows} sequences failed:\n{problems.read().decode()}")
    trial = Trial(**json.loads(lines[-1]))
    peak = max(trial.peak, seen)
    return replace(trial, peak=peak, fits=trial.fits and peak <= limit)


def _watch(child: subprocess.Popen[bytes], limit: int) -> int:
    """Wait for a process; the most memory that it was seen to hold. One that holds more than ``limit`` is ended."""
    most = 0
    process = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            most = max(most, int(process.memory_info().rss))
        except psutil.Error:
            break  # it has just ended
        if most > limit:
            child.kill()
        time.sleep(POLL_SECONDS)
    child.wait()
    return most
