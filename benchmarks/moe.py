"""What a mixture of experts costs: a step with 2 to 8 experts beside a dense one, and three ways to multiply groups.

    python benchmarks/moe.py            # about half a minute on one core

Times are of the processor, the median of several steps, on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from llm_trainer.config import ModelConfig
from llm_trainer.models import TransformerLM
from llm_trainer.models.grouped import grouped_product

SHAPE = {"vocab_size": 8192, "d_model": 256, "n_heads": 4, "n_layers": 4, "max_seq_len": 256, "qk_norm": True}
ROWS, LENGTH = 8, 256
GROUPS, WIDE = 8, 352


def main() -> None:
    """Print two tables, and everything as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps, products = measure_steps(repeats), measure_products(repeats)
    print(f"{'experts':>8}  {'parameters':>12}  {'active':>12}  {'MFLOP/token':>11}  {'ms/step':>8}")
    for line in steps:
        print("{experts:>8}  {parameters:>12,}  {active:>12,}  {mflop:>11.1f}  {milliseconds:>8.0f}".format(**line))
    print(f"\n{'rows':>6}  {'largest/mean':>12}  " + "  ".join(f"{name:>9}" for name in ("grouped", "loop", "padded")))
    for line in products:
        print("{rows:>6}  {unevenness:>12.2f}  {grouped:>6.1f} ms  {loop:>6.1f} ms  {padded:>6.1f} ms".format(**line))
    print(json.dumps({"steps": steps, "products": products, "torch": torch.__version__}))


def measure_steps(repeats: int) -> list[dict[str, float]]:
    """A forward and backward pass of a small model: dense, and with 2, 4 and 8 experts of which 2 are met."""
    ids = torch.randint(0, SHAPE["vocab_size"], (ROWS, LENGTH))
    lines = []
    for experts in (0, 2, 4, 8):
        model = TransformerLM(ModelConfig.from_dict({**SHAPE, "n_experts": experts}))

        def step(model: TransformerLM = model) -> None:
            model.zero_grad()
            model(ids, labels=ids).loss.backward()

        lines.append(
            {
                "experts": experts,
                "parameters": model.num_parameters(),
                "active": model.num_active_parameters(),
                "mflop": model.flops_per_token(LENGTH) / 1e6,
                "milliseconds": milliseconds(step, repeats),
            }
        )
    return lines


def measure_products(repeats: int) -> list[dict[str, float]]:
    """Forward and backward pass of one product of rows in 8 uneven groups, in three ways."""
    lines = []
    for rows in (2048, 4096):
        shares = torch.rand(GROUPS) + 0.1
        counts = (shares / shares.sum() * rows).long()
        counts[-1] += rows - counts.sum()
        ends = counts.cumsum(0).int()
        x = torch.randn(rows, SHAPE["d_model"], requires_grad=True)
        weights = torch.randn(GROUPS, WIDE, SHAPE["d_model"], requires_grad=True)
        starts, largest = ends - counts, int(counts.max())
        places = (starts.unsqueeze(1) + torch.arange(largest)).clamp(max=rows - 1)
        group = torch.repeat_interleave(torch.arange(GROUPS), counts)
        back = group * largest + torch.arange(rows) - starts[group]

        def loop(x: Tensor = x, weights: Tensor = weights, counts: Tensor = counts) -> Tensor:
            return torch.cat([part @ matrix.T for part, matrix in zip(x.split(counts.tolist()), weights)])

        def padded(x: Tensor = x, weights: Tensor = weights, places: Tensor = places, back: Tensor = back) -> Tensor:
            return torch.bmm(x[places], weights.transpose(1, 2)).flatten(0, 1)[back]

        def grouped(x: Tensor = x, weights: Tensor = weights, ends: Tensor = ends) -> Tensor:
            return grouped_product(x, weights, ends)

        ways: dict[str, Callable[[], Tensor]] = {"grouped": grouped, "loop": loop, "padded": padded}
        gradient = torch.randn(rows, WIDE)
        line = {"rows": rows, "unevenness": largest * GROUPS / rows}
        for name, way in ways.items():
            assert torch.allclose(way(), grouped(), atol=1e-3), name
            line[name] = milliseconds(partial(_forward_and_backward, way, gradient), repeats)
        lines.append(line)
    return lines


def _forward_and_backward(way: Callable[[], Tensor], gradient: Tensor) -> None:
    way().backward(gradient)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """The median of processor times, after two to warm up."""
    times = []
    for _ in range(repeats + 2):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return 1000 * statistics.median(times[2:])


if __name__ == "__main__":
    main()
