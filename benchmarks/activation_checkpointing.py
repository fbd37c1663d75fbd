"""What recomputing activations saves and costs: memory and time of a training step with none, and every k-th block.

Each setting runs in a process of its own, with the real loop's step. *Kept* is what the forward pass holds for the
backward pass and the one block that is computed again, counted tensor by tensor; *peak* is the most memory that the
process held (on a GPU, the allocator).

    python benchmarks/activation_checkpointing.py --layers 8 --width 256 --batch 8 --length 256

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from typing import Any

import torch

SETTINGS = (0, 1, 2, 4)
"""0: nothing is recomputed; k: every k-th block is."""


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """One setting, in this process."""
    from llm_trainer.config import ModelConfig, RunConfig, TrainingConfig
    from llm_trainer.workflows.batch_trial import try_here
    from llm_trainer.workflows.footprint import footprint

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    shape = ModelConfig(
        vocab_size=arguments.vocabulary,
        d_model=arguments.width,
        n_heads=arguments.width // 64,
        n_layers=arguments.layers,
        max_seq_len=arguments.length,
    )
    training = TrainingConfig(
        batch_size=arguments.batch,
        device=arguments.device,
        precision=arguments.precision,
        gradient_checkpointing=arguments.every > 0,
        gradient_checkpointing_every=max(1, arguments.every),
        num_threads=arguments.threads,
    )
    # Before anything is trained: counting allocates nothing, but the peak would not know.
    kept = footprint(shape, training, arguments.length, arguments.precision)
    trial = try_here(RunConfig(model=shape, training=training), arguments.batch)
    if not trial.fits:
        sys.exit("out of memory; choose a smaller shape")
    return {
        "kept": kept.activations + kept.recomputed,
        "peak": trial.peak,
        "tokens_per_second": trial.tokens_per_second,
    }


def run(words: list[str], every: int) -> dict[str, float]:
    """One setting, in a process of its own."""
    command = [sys.executable, __file__, *words, "--every", str(every)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"every={every} failed:\n{result.stderr}")
    answer: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return answer


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each setting, in turns (default: 3)")
    parser.add_argument("--every", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.every is not None:
        print(json.dumps(measure(arguments)))
        return 0
    words = sys.argv[1:]
    runs: dict[int, list[dict[str, float]]] = {every: [] for every in SETTINGS}
    for _ in range(arguments.rounds):
        for every in SETTINGS:
            runs[every].append(run(words, every))
    table: list[dict[str, Any]] = []
    for every, results in runs.items():
        best = max(result["tokens_per_second"] for result in results)
        peak = min(result["peak"] for result in results)
        table.append({"every": every, "kept": results[0]["kept"], "peak": peak, "tokens_per_second": round(best, 1)})
    plain = table[0]
    print(f"{'recomputed':>14}{'kept MB':>10}{'peak MB':>10}{'tokens/s':>11}{'kept':>8}{'time':>8}")
    for row in table:
        name = {0: "nothing", 1: "every block"}.get(row["every"], f"1 block in {row['every']}")
        row["kept_ratio"] = round(row["kept"] / plain["kept"], 3)
        row["time_ratio"] = round(plain["tokens_per_second"] / row["tokens_per_second"], 3)
        print(
            f"{name:>14}{row['kept'] / 2**20:>10.0f}{row['peak'] / 2**20:>10.0f}{row['tokens_per_second']:>11,.0f}"
            f"{row['kept_ratio']:>7.2f}x{row['time_ratio']:>7.2f}x"
        )
    names = ("layers", "width", "vocabulary", "length", "batch", "device", "precision", "threads", "rounds")
    settings = {name: getattr(arguments, name) for name in names}
    about = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    print(json.dumps({"benchmark": "activation_checkpointing", **settings, **about, "results": table}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
