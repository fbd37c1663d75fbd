"""Tokens per second of training: ours as a person gets it, beside what people use otherwise.

Every contestant trains the same shape from the same weights on the same batches with the same AdamW, in a fresh
process, taking turns for several rounds. Losses are held against each other: a fast loop that computes something else
would show.

    python benchmarks/train_throughput.py --nanogpt FOLDER --llama2c FOLDER

The folders are checkouts of github.com/karpathy/nanoGPT and github.com/karpathy/llama2.c; contestants that are not
there are left out, and the output says so. ``--quick`` tries everything on tiny shapes, without compilation. What is
fair about the comparison and what is not is in docs/how_to/benchmarks.md. The last line of the output is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common import default_threads
from contest import TUNED, Contest, checkouts, header, hold, present
from contestants import Contestant, Shape

# The exact GELU, which everyone can compute; biases, because transformers' GPT-2 cannot leave them out.
GPT2: dict[str, Any] = {"position": "learned", "norm": "layernorm", "activation": "gelu", "bias": True}
SHAPES = {
    shape.name: shape
    for shape in (
        # A first model on a CPU; people accumulate 2 x 8 sequences there, which saves no memory at this size.
        Shape(
            "cpu_small_model",
            {**GPT2, "vocab_size": 32000, "d_model": 256, "n_heads": 4, "n_layers": 4, "max_seq_len": 512},
            sequences=16,
            stock_micro_batch=2,
            our_micro_batch=16,
        ),
        # nanoGPT's recipe for a CPU: characters, no biases.
        Shape(
            "nanogpt_cpu",
            {**GPT2, "bias": False, "vocab_size": 65, "d_model": 128, "n_heads": 4, "n_layers": 4, "max_seq_len": 64},
            sequences=12,
            stock_micro_batch=12,
            our_micro_batch=12,
            warmup=20,
            steps=50,
        ),
        Shape(
            "llama2c_15m",
            {"vocab_size": 32000, "d_model": 288, "n_heads": 6, "n_layers": 6, "d_ff": 768, "max_seq_len": 256},
            sequences=32,
            stock_micro_batch=8,
            our_micro_batch=8,
        ),
    )
}
TINY = {"vocab_size": 300, "d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 32}
QUICK_SHAPES = {
    "cpu_small_model": Shape("cpu_small_model", {**GPT2, **TINY}, 8, 2, 8),
    "nanogpt_cpu": Shape("nanogpt_cpu", {**GPT2, **TINY, "bias": False}, 4, 4, 4),
    "llama2c_15m": Shape("llama2c_15m", {**TINY, "d_ff": 96}, 8, 4, 4),
}
CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant("ours", "ours"),
        Contestant("hf-trainer", "hf-trainer"),
        Contestant("hf-trainer+malloc", "hf-trainer", malloc=True),
        Contestant("hf-bf16-compile", "hf", bf16=True, compile=True),
        Contestant("nanogpt", "nanogpt"),
        Contestant("nanogpt-bf16-compile", "nanogpt", bf16=True, compile=True),
        Contestant("llama2c", "llama2c"),
        Contestant("llama2c-bf16-compile", "llama2c", bf16=True, compile=True),
        Contestant(TUNED, TUNED),
    )
}
DEFAULT = [name for name in CONTESTANTS if name != "hf-trainer+malloc"]


def fits(contestant: Contestant, shape: Shape) -> bool:
    """nanoGPT's model is a GPT-2, llama2.c's a Llama."""
    learned = shape.config.position == "learned"
    return {"nanogpt": learned, "llama2c": not learned}.get(contestant.engine, True)


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="checkout of nanoGPT")
    parser.add_argument("--llama2c", type=Path, metavar="FOLDER", help="checkout of llama2.c")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="default: all")
    parser.add_argument(
        "--contestants", nargs="+", choices=list(CONTESTANTS), default=DEFAULT, help="default: all but +malloc"
    )
    parser.add_argument("--rounds", type=int, help="runs of each contestant (default: 3, or 1 with --quick)")
    parser.add_argument("--seconds", type=float, help="measured seconds of each run (default: 8, or 0 with --quick)")
    parser.add_argument("--threads", type=int, default=default_threads(), help="threads of each run")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, no compilation: only shows that it works")
    options = parser.parse_args()
    folders = checkouts(nanogpt=options.nanogpt, llama2c=options.llama2c)
    rounds = options.rounds if options.rounds is not None else 1 if options.quick else 3
    seconds = options.seconds if options.seconds is not None else 0.0 if options.quick else 8.0
    if rounds < 1 or seconds < 0 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1, --seconds at least 0")
    wanted = [CONTESTANTS[name] for name in CONTESTANTS if name in options.contestants]
    if options.quick:
        wanted = [contestant for contestant in wanted if not contestant.compile]
    skipped: dict[str, str] = {}
    contests = []
    for name in options.shapes:
        shape = (QUICK_SHAPES if options.quick else SHAPES)[name]
        taking_part = present([each for each in wanted if fits(each, shape)], folders, skipped)
        if not taking_part:
            parser.error(f"nobody of {', '.join(options.contestants)} can train {name}")
        contests.append(Contest(shape, taking_part, folders, seconds, options.threads))
    results = hold(contests, rounds)
    summary = header("train_throughput", contests, options.threads)
    print(json.dumps({**summary, "quick": options.quick, "skipped": skipped, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
