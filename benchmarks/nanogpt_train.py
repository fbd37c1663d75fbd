"""Runs nanoGPT's own, unchanged train.py and writes down when it said what. ``time_to_loss.py`` starts this.

Three things around it are ours: every line that it prints gets the time and the processor time, every checkpoint gets
a file of its own, and its fixed random seed is moved by ``seed`` (0 leaves it as it is).
"""

from __future__ import annotations

import json
import re
import runpy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

BLOCK, STEPS = 64, 2000
SIZES = ["--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--dropout=0.0"]
LENGTHS = ["--max_iters=2000", "--lr_decay_iters=2000", "--eval_iters=20", "--log_interval=1"]
RECIPE = ["--device=cpu", "--compile=False", *SIZES, *LENGTHS]
"""What nanoGPT's README says for a CPU, after config/train_shakespeare_char.py."""
QUICK_STEPS = 20
QUICK = [f"--{name}={QUICK_STEPS}" for name in ("max_iters", "lr_decay_iters")]
QUICK += ["--warmup_iters=2", "--eval_interval=10", "--eval_iters=2"]
"""After the recipe: only shows that it works."""
LOG, CHECKPOINTS = "log.json", "checkpoints"
Line = dict[str, Any]


@dataclass(frozen=True)
class Times:
    """Seconds of training before each step, without evaluation, and nanoGPT's own estimates."""

    wall: list[float]
    cpu: list[float]
    """Index i: after i updates."""
    estimates: dict[int, float]
    """Validation loss by step, as printed."""


def read_times(lines: Sequence[Line]) -> Times:
    """Time per iteration from the printed lines.

    train.py prints after each update, after each evaluation, and we after each checkpoint; so an update lasts from the
    line before its own, whatever that was, and evaluating and saving count for nothing.

    Args:
        lines: ``text``, ``wall`` and ``cpu`` of each, in order.
    """
    wall, cpu = [0.0], [0.0]
    estimates: dict[int, float] = {}
    for before, line in pairwise(lines):
        if match := re.match(r"step (\d+): train loss [\d.]+, val loss ([\d.]+)", line["text"]):
            estimates[int(match[1])] = float(match[2])
        elif re.match(r"iter \d+: loss", line["text"]):
            wall.append(wall[-1] + line["wall"] - before["wall"])
            cpu.append(cpu[-1] + line["cpu"] - before["cpu"])
    return Times(wall, cpu, estimates)


def run(checkout: Path, arguments: Sequence[str], seed: int) -> None:
    """Run train.py here, in the current folder."""
    import torch

    lines: list[Line] = []
    folder = Path(CHECKPOINTS)
    folder.mkdir()

    def stamped(*parts: Any, **named: Any) -> None:
        text = " ".join(map(str, parts))
        lines.append({"text": text, "wall": time.perf_counter(), "cpu": time.process_time()})

    def save_apart(content: dict[str, Any], path: str) -> None:
        kept = {key: content[key] for key in ("model", "model_args", "iter_num")}
        save(kept, folder / f"{content['iter_num']:06d}.pt")
        stamped("saved")

    save, seed_with = torch.save, torch.manual_seed
    torch.save = save_apart  # type: ignore[assignment]
    torch.manual_seed = lambda value: seed_with(value + seed)  # type: ignore[assignment]
    sys.path.insert(0, str(checkout))
    sys.argv = ["train.py", *arguments]
    runpy.run_path(str(checkout / "train.py"), init_globals={"print": stamped})
    Path(LOG).write_text(json.dumps(lines), encoding="utf-8")
    print(json.dumps({"lines": len(lines)}))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    run(Path(given["checkout"]), given["arguments"], given["seed"])
