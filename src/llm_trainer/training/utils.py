"""Small parts of the loop that are useful outside it: clipping, seeds, and the reference loop of the documentation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llm_trainer.common.hashing import mix_seed


class GradientClipping:
    """Scales gradients down to a largest global norm, together with any other factor, in one pass.

    The loop accumulates gradients of loss *sums*, so they still have to be divided by the number of targets. Doing it
    here costs nothing: one multiplication serves both.

    Args:
        max_norm: largest L2 norm of all gradients together; 0 does not clip.
    """

    def __init__(self, max_norm: float = 1.0) -> None:
        self.max_norm = max_norm

    def __call__(self, parameters: Iterable[Tensor], scale: float = 1.0) -> float:
        """Multiply all gradients by ``scale``, then clip them.

        Returns:
            The norm after scaling and before clipping. If it is not finite, the gradients are left as they were.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = float(gradient_norm(gradients)) * scale
        if math.isfinite(norm):
            self.apply(gradients, norm, scale)
        return norm

    def apply(self, gradients: list[Tensor], norm: float, scale: float) -> None:
        """Multiply ``gradients``, whose norm after scaling is ``norm``, by ``scale``, and clip them."""
        factor = scale * min(1.0, self.max_norm / (norm + 1e-6)) if self.max_norm else scale
        if factor != 1.0 and gradients:
            torch._foreach_mul_(gradients, factor)


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """L2 norm of all gradients together, a scalar on their device; 0 without any."""
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Take numbers too small for a normal float as 0 for the length of the block: a run that diverges fills the weights
    with them, and CPUs multiply them far more slowly. Afterwards this thread computes as it did before."""
    tiny = torch.tensor(torch.finfo(torch.float32).smallest_normal)
    before = bool(tiny / 2 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def seed_everything(*parts: int | str) -> None:
    """Seed all of PyTorch's generators from all ``parts`` together."""
    torch.manual_seed(mix_seed(*parts))


def seed_device(device: torch.device, *parts: int | str) -> None:
    """Seed the generators of the host and of one device from all ``parts`` together.

    The loop calls it before every micro-step with (seed, step, micro-step, rank): dropout is then a pure function of
    where the run is, and resuming needs no saved generator state. The numbers drawn are those that
    :func:`seed_everything` gives; that one notes a stack trace for each absent GPU, 0.3 ms in all.
    """
    seed = mix_seed(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def training_loop(
    model: nn.Module,
    dataloader: Iterable[dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    *,
    max_grad_norm: float = 1.0,
    log_steps: int = 100,
    save_steps: int = 0,
    log_metrics: Callable[..., None] | None = None,
    save_checkpoint: Callable[..., Any] | None = None,
) -> list[float]:
    """The loop that every other one grows from, on one page: no accumulation, no resume, no mixed precision.

    Args:
        model: called as ``model(**batch)``; its result has ``.loss``.
        dataloader: batches with ``labels``.
        optimizer, scheduler: stepped once a batch.
        max_grad_norm: clipping.
        log_steps, log_metrics: every so many steps, ``log_metrics(loss, step)``.
        save_steps, save_checkpoint: every so many steps but not at step 0, ``save_checkpoint(model, optimizer, step)``.

    Returns:
        The loss of every step.
    """
    model.train()
    losses: list[float] = []
    for step, batch in enumerate(dataloader):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if log_metrics is not None and step % log_steps == 0:
            log_metrics(losses[-1], step)
        if save_checkpoint is not None and save_steps and step and step % save_steps == 0:
            save_checkpoint(model, optimizer, step)
    return losses
