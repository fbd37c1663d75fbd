"""Data parallelism: every rank has the whole model and its share of each batch; gradients are summed.

The loop accumulates gradients of loss *sums*, so one all-reduce of sums, after the last micro-step, gives exactly the
gradient that one process would compute. ``torchrun`` starts the ranks; a process started alone is rank 0 of 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llm_trainer.common.devices import rank, world_size

BUCKET_NUMBERS = 4_000_000
"""Gradients are sent in pieces of about this many numbers: 16 MB in float32."""


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other ranks for the length of the block, unless this process is alone or has joined already."""
    if world_size() == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        # Without it, barriers and object broadcasts of all ranks would go through GPU 0.
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        # Leave together: a rank that takes its connections down while another still works can abort inside gloo.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def is_main() -> bool:
    """Whether this is the rank that writes files and prints."""
    return rank() == 0


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def from_main(compute: Callable[[], str]) -> str:
    """The text that rank 0 computes, on every rank."""
    if world_size() == 1:
        return compute()
    box: list[str | None] = [compute() if is_main() else None]
    dist.broadcast_object_list(box)
    assert box[0] is not None
    return box[0]


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Add numbers over all ranks."""
    if world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return [float(value) for value in tensor]


def mean_over_ranks(value: float, device: torch.device) -> float:
    """The mean of a number over all ranks."""
    return sum_over_ranks([value], device)[0] / world_size()


def sum_gradients(model: nn.Module) -> None:
    """Add every gradient over all ranks, in place."""
    if world_size() == 1:
        return
    bucket: list[Tensor] = []
    size = 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            # A rank whose batch was empty still has to take part.
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        size += parameter.grad.numel()
        if size >= BUCKET_NUMBERS:
            _reduce(bucket)
            bucket, size = [], 0
    if bucket:
        _reduce(bucket)


def broadcast_model(model: nn.Module) -> None:
    """Give every rank rank 0's weights, so that all start equal whatever their seeds."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def _reduce(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
