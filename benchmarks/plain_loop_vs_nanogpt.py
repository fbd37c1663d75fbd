"""Is our Trainer slower than a plain loop over nanoGPT's model? Same shape, same weights, same batches, same AdamW.

Three contestants in float32, each in a fresh process with a fixed number of threads, taking turns for several rounds:

- ``ours``: ``Trainer.fit`` on a ``TransformerLM`` of GPT-2's layout, with everything the Trainer does around a step;
- ``nanogpt``: nanoGPT's ``model.py`` with its own optimizer set-up, in the loop of its ``train.py`` without evaluation;
- ``nanogpt+fused``: the same with PyTorch's fused AdamW, which nanoGPT turns on for GPUs only.

All start from the same weights and see the same batches, so their losses must agree: a fast loop that computes
something else would show. Weight decay is 0, because nanoGPT decays embeddings and we do not.

    python benchmarks/plain_loop_vs_nanogpt.py --nanogpt FOLDER_WITH_model.py

The folder is a checkout of https://github.com/karpathy/nanoGPT; without it the benchmark is skipped. The last line of
the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common import default_threads, fail
from contest import Contest, checkouts, header, hold
from contestants import Contestant, Shape

LAYOUT: dict[str, Any] = {"position": "learned", "norm": "layernorm", "activation": "gelu", "n_heads": 4, "n_layers": 4}
SHAPES = {
    shape.name: shape
    for shape in (
        # nanoGPT's README calls the first one "train on a CPU"; 256 ids are enough for text as bytes.
        Shape("tiny", {**LAYOUT, "d_model": 128, "max_seq_len": 64, "vocab_size": 256}, 12, 12, 12, 20, 120),
        Shape("small", {**LAYOUT, "d_model": 256, "max_seq_len": 256, "vocab_size": 8192}, 8, 8, 8, 2, 10),
    )
}
CONTESTANTS = (
    Contestant("ours", "ours", training={"precision": "fp32", "compile": False}),
    Contestant("nanogpt", "nanogpt"),
    Contestant("nanogpt+fused", "nanogpt", fused=True),
)


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="checkout of nanoGPT")
    parser.add_argument("--shape", choices=list(SHAPES), action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contestant (default: 5)")
    parser.add_argument("--threads", type=int, default=default_threads(), help="threads of each run")
    options = parser.parse_args()
    if options.nanogpt is None:
        print("skipped: --nanogpt FOLDER must name a checkout of github.com/karpathy/nanoGPT")
        print(json.dumps({"benchmark": "plain_loop_vs_nanogpt", "skipped": True}))
        return 0
    if options.rounds < 1 or options.threads < 1:
        fail("--rounds and --threads must be at least 1")
    folders = checkouts(nanogpt=options.nanogpt)
    shapes = [SHAPES[name] for name in options.shape or SHAPES]
    contests = [Contest(shape, CONTESTANTS, folders, 0.0, options.threads) for shape in shapes]
    results = hold(contests, options.rounds)
    print(json.dumps({**header("plain_loop_vs_nanogpt", contests, options.threads), "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
