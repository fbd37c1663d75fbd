"""Training speed on one GPU: ours and nanoGPT on GPT-2 124M, and ours on a Llama of a billion parameters.

bfloat16, torch.compile, PyTorch's fused attention. The micro-batch is found by trying and is the same for both sides;
how large each side's could be is reported too. Weights and batches are the same, losses are held against each other,
sides take turns in fresh processes, and the share of the matrix peak (MFU) is of the peak measured in between.
``ours-documents`` has four documents in each row that do not see each other.

    python benchmarks/gpu_training.py --nanogpt FOLDER

Rounds stop when the next one would not fit into ``--minutes``. ``--quick`` tries everything on tiny shapes on a CPU,
without compilation. Needs no network. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from common import clean_environment, fail, run_python
from contest import Contest, checkouts, header, present, print_report
from contestants import Contestant, Shape

from llm_trainer.models.presets import PRESETS

# What nanoGPT trains: no biases, the exact GELU, the vocabulary rounded up to a multiple of 64.
GPT2 = {**PRESETS["gpt2_124m"], "vocab_size": 50304, "bias": False, "activation": "gelu"}
MOST = {"gpt2_124m": 64, "llama_1b": 16}
"""Sequences per step at most: 65,536 and 32,768 tokens fill any single GPU."""
SHAPES = {
    "gpt2_124m": Shape("gpt2_124m", GPT2, 1, 1, 1, warmup=5, steps=5, learning_rate=3e-4),
    "llama_1b": Shape("llama_1b", PRESETS["llama_1b"], 1, 1, 1, warmup=3, steps=5, learning_rate=1e-4),
}
_TINY = {"vocab_size": 128, "d_model": 32, "n_heads": 2, "n_layers": 1, "max_seq_len": 32}
QUICK_SHAPES = {
    "gpt2_124m": Shape("gpt2_124m", {**GPT2, **_TINY}, 1, 1, 1, warmup=2, steps=8),
    "llama_1b": Shape("llama_1b", {**PRESETS["llama_1b"], **_TINY, "n_kv_heads": 1, "d_ff": 64}, 1, 1, 1, 2, 8),
}
DOCUMENTS = 4


def contestants(shape: str, *, quick: bool) -> list[Contestant]:
    """Who trains a shape."""
    settings = {"precision": "fp32"} if quick else {"precision": "bf16", "compile": True}
    ours = [
        Contestant("ours", "ours", training=settings),
        Contestant("ours-documents", "ours", training=settings, documents=DOCUMENTS),
    ]
    nanogpt = Contestant("nanogpt", "nanogpt", bf16=not quick, compile=not quick)
    return [*ours, nanogpt] if shape == "gpt2_124m" else ours


class Measurement:
    """One call's work, within its time."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.device = "cpu" if options.quick else "cuda"
        self.folders = checkouts(nanogpt=options.nanogpt)
        self.skipped: dict[str, str] = {}
        self._deadline = time.monotonic() + 60 * options.minutes

    def run(self, script: str, spec: dict[str, Any], name: str) -> dict[str, Any]:
        """Start a script of ours."""
        environment = clean_environment(self.options.threads, TORCHINDUCTOR_CACHE_DIR=str(self.folder / "inductor"))
        return run_python(Path(__file__).with_name(script), {**spec, "device": self.device}, environment, name=name)

    def prepare(self, name: str) -> tuple[Contest, dict[str, Any]]:
        """Find the batch of a shape, and make the contest."""
        shape = (QUICK_SHAPES if self.options.quick else SHAPES)[name]
        taking_part = present(contestants(name, quick=self.options.quick), self.folders, self.skipped)
        most = 8 if self.options.quick else MOST[name]
        found = {}
        for engine in dict.fromkeys(each.engine for each in taking_part):
            spec = {"shape": asdict(shape), "engine": engine, "folders": self.folders, "most": most}
            found[engine] = self.run("largest_batch.py", spec, f"the search for {engine}'s batch of {name}")
        batch = min(each["largest"] for each in found.values())
        if batch < 1:
            fail(f"not one sequence of {name} fits into this device's memory")
        print(f"{name}: micro-batch {batch}; " + ", ".join(f"{who} {what['largest']}" for who, what in found.items()))
        shape = replace(shape, sequences=batch, stock_micro_batch=batch, our_micro_batch=batch)
        # A billion weights are drawn on the device: nobody else has to have the same.
        alone = all(each.engine == "ours" for each in taking_part)
        seconds = 0.0 if self.options.quick else self.options.seconds
        contest = Contest(
            shape, taking_part, self.folders, seconds, self.options.threads, self.device, same_weights=not alone
        )
        contest.prepare(self.folder)
        return contest, {"most_tried": most, **found}

    def attention(self) -> dict[str, Any]:
        """Attention alone, at the shape of GPT-2 124M."""
        spec: dict[str, Any] = {"batch": 16, "heads": 12, "length": 1024, "head_dim": 64, "flex": True}
        if self.options.quick:
            spec = {"batch": 1, "heads": 2, "length": 32, "head_dim": 16, "flex": False}
        return self.run("attention_kernels.py", {**spec, "documents": DOCUMENTS}, "attention alone")

    def hold(self, contests: list[Contest]) -> None:
        """Every contest's first round, then further rounds while there is time."""
        longest = {contest.shape.name: 0.0 for contest in contests}
        for number in range(self.options.rounds):
            for contest in contests:
                started, name = time.monotonic(), contest.shape.name
                if number and started + longest[name] > self._deadline:
                    print(f"{name}: no time for round {number + 1}")
                    continue
                contest.round(number)
                longest[name] = max(longest[name], time.monotonic() - started)
                print(f"{name}: round {number + 1} took {longest[name]:.0f} s", flush=True)


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="checkout of nanoGPT")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="default: both")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contestant, time allowing (default: 3)")
    parser.add_argument("--seconds", type=float, default=6.0, help="measured seconds of each run (default: 6)")
    parser.add_argument("--minutes", type=float, default=7.0, help="start no further round after this (default: 7)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="processor threads of each run")
    parser.add_argument("--quick", action="store_true", help="tiny shapes on the CPU: only shows that it works")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if not options.quick and not torch.cuda.is_available():
        fail("PyTorch sees no CUDA device here; --quick tries everything on tiny shapes on the CPU")
    with tempfile.TemporaryDirectory() as folder:
        measurement = Measurement(options, Path(folder))
        prepared = {name: measurement.prepare(name) for name in options.shapes}
        contests = [contest for contest, _ in prepared.values()]
        measurement.hold(contests)
        results = [{**contest.report(), "largest_batch": found} for contest, found in prepared.values()]
        for result in results:
            print_report(result)
        attention = measurement.attention()
    print(f"\nattention alone: {json.dumps(attention)}")
    summary = {**header("gpu_training", contests, options.threads), "quick": options.quick}
    print(json.dumps({**summary, "skipped": measurement.skipped, "attention": attention, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
