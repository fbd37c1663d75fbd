"""What the parts that are written by hand gain over PyTorch's own, each alone: forward and backward, on one thread.

- attention in blocks beside ``F.scaled_dot_product_attention`` (causal)
- output layer and cross-entropy in pieces beside ``F.cross_entropy`` of all logits
- RMSNorm beside ``F.rms_norm``; LayerNorm's fused kernel beside the formula written out
- ReLU^2 beside ``F.relu(x).square()``
- rotary positions beside the usual two products and a concatenation
- memory that is kept when freed beside memory given back: large tensors made and dropped
- bfloat16 products beside float32

    python benchmarks/kernels.py

Both sides take turns, results must agree, and times are the smallest processor time of the rounds. The last line of the
output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from common import fail, in_turns, machine, now, print_table
from torch import Tensor

from llm_trainer.common.allocator import freed_memory_reused
from llm_trainer.models.activations import relu_squared
from llm_trainer.models.blocked_attention import blocked_attention
from llm_trainer.models.embeddings import RotaryEmbedding, apply_rotary
from llm_trainer.models.layers import layer_norm_formula
from llm_trainer.models.rms_norm import rms_norm
from llm_trainer.training.fused_loss import linear_cross_entropy, reference_linear_cross_entropy


class Case(NamedTuple):
    """One part, and what it stands beside."""

    name: str
    ours: Callable[[Sequence[Tensor]], Tensor]
    theirs: Callable[[Sequence[Tensor]], Tensor]
    inputs: list[Tensor]


def milliseconds(work: Callable[[Sequence[Tensor]], Tensor], inputs: Sequence[Tensor]) -> float:
    """Processor time of one forward and backward pass."""
    for tensor in inputs:
        tensor.grad = None
    start = now()
    result = work(inputs)
    if result.requires_grad:
        result.float().sum().backward()
    return 1000 * (now().cpu - start.cpu)


def compare(case: Case, rounds: int) -> tuple[float, float]:
    """The smallest time of each side."""
    ours, theirs = case.ours(case.inputs).detach().float(), case.theirs(case.inputs).detach().float()
    if not torch.allclose(ours, theirs, atol=0.05 * float(theirs.abs().max())):
        fail(f"{case.name}: the two sides do not agree")
    sides = {"ours": case.ours, "theirs": case.theirs}
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(rounds + 1):
        for side in in_turns(list(sides), number):
            taken = milliseconds(sides[side], case.inputs)
            if number:  # the first round warms up
                times[side].append(taken)
    return min(times["ours"]), min(times["theirs"])


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor that wants a gradient."""
    return torch.randn(*shape).to(dtype).requires_grad_()


def usual_rotary(inputs: Sequence[Tensor]) -> Tensor:
    """As most models write it."""
    x, cos, sin = inputs
    cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def churn(keep: bool) -> Callable[[Sequence[Tensor]], Tensor]:
    """Make and drop large tensors, as every step of training does."""

    def work(inputs: Sequence[Tensor]) -> Tensor:
        with freed_memory_reused(keep):
            for _ in range(8):
                result = inputs[0] * 2
        return result[:1].detach()

    return work


def cases() -> list[Case]:
    """All of them, at the shapes of small models."""
    bf16 = torch.bfloat16
    cos, sin = RotaryEmbedding(64, 512)(512)
    found = []
    for dtype in (torch.float32, bf16):
        name = "bf16" if dtype is bf16 else "fp32"
        qkv = [leaf(16, 4, 512, 64, dtype=dtype) for _ in range(3)]
        found.append(
            Case(
                f"attention, 16 x 4 x 512 x 64, {name}",
                lambda t: blocked_attention(*t),
                lambda t: F.scaled_dot_product_attention(*t, is_causal=True),
                qkv,
            )
        )
        x, weight = leaf(4096, 256, dtype=dtype), leaf(256, dtype=dtype)
        found.append(
            Case(
                f"RMSNorm, 4096 x 256, {name}",
                lambda t: rms_norm(t[0], t[1], 1e-5),
                lambda t: F.rms_norm(t[0], (256,), t[1], 1e-5),
                [x, weight],
            )
        )
        wide = leaf(4096, 1024, dtype=dtype)
        found.append(
            Case(
                f"ReLU^2, 4096 x 1024, {name}",
                lambda t: relu_squared(t[0]),
                lambda t: F.relu(t[0]).square(),
                [wide],
            )
        )
        heads = leaf(8, 4, 512, 64, dtype=dtype)
        tables = [cos.to(dtype), sin.to(dtype)]
        found.append(
            Case(
                f"rotary, 8 x 4 x 512 x 64, {name}",
                lambda t: apply_rotary(t[0], (t[1], t[2])),
                usual_rotary,
                [heads, *tables],
            )
        )
    layer, scale, shift = leaf(4096, 256), leaf(256), leaf(256)
    found.append(
        Case(
            "LayerNorm, 4096 x 256, fused beside the formula",
            lambda t: F.layer_norm(t[0], (256,), t[1], t[2], 1e-5),
            lambda t: layer_norm_formula(t[0], t[1], t[2], 1e-5),
            [layer, scale, shift],
        )
    )
    hidden, head = leaf(1, 2048, 256), leaf(32000, 256)
    targets = torch.randint(0, 32000, (1, 2048))

    def in_autocast(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Sequence[Tensor]], Tensor]:
        def work(t: Sequence[Tensor]) -> Tensor:
            with torch.autocast("cpu", dtype=bf16):
                return loss(t[0], t[1], targets)

        return work

    losses = [in_autocast(linear_cross_entropy), in_autocast(reference_linear_cross_entropy)]
    found.append(Case("loss, 2048 tokens of 32,000, bf16", *losses, [hidden, head]))
    large = torch.randn(16, 1 << 20)
    found.append(Case("8 tensors of 64 MB made and dropped", churn(True), churn(False), [large]))
    square = [torch.randn(2048, 2048), torch.randn(2048, 2048)]
    low = [tensor.to(bf16) for tensor in square]
    found.append(Case("a product of 2048, bf16 beside fp32", lambda t: low[0] @ low[1], lambda t: t[0] @ t[1], square))
    return found


def main() -> None:
    """Measure all of it and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, result = [["forward and backward", "ours, ms", "other, ms", "times"]], {}
    for case in cases():
        ours, theirs = compare(case, options.rounds)
        rows.append([case.name, f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.2f}"])
        result[case.name] = {"ours_ms": round(ours, 3), "other_ms": round(theirs, 3), "ratio": round(theirs / ours, 3)}
    print_table(rows)
    print(json.dumps({"cases": result, **machine(1)}))


if __name__ == "__main__":
    main()
