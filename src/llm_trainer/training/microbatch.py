"""Gradients of micro-batches, added up; a micro-batch that does not fit in memory is computed in pieces of its rows.

Losses are sums, so the gradients of the pieces add up to those of the whole: the effective batch, and the update, stay
what they were. A backward pass that ran out of memory half-way has already added some of its gradients. So after such
an error *all* gradients of the step are dropped and the step begins again with smaller pieces. That repeats work, but
only in the few steps that find the size: it is remembered for the rest of the run. Keeping the gradients from before
each micro-batch, to go back to, would cost every step a second set of gradients, in the moment memory is short.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llm_trainer.common.errors import UserError
from llm_trainer.training.meter import real_tokens
from llm_trainer.training.objectives import Batch, LossTerms
from llm_trainer.training.utils import seed_device

OUT_OF_MEMORY = (
    "can't allocate memory",  # PyTorch on a CPU
    "not enough memory",  # the same on Windows
    "bad_alloc",  # C++ inside an operator
    "out of memory",  # CUDA and MPS, where the error has no class of its own
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What a RuntimeError says when it is one of memory."""


@dataclass
class Sums:
    """What the micro-batches of a step add up to. Tensors are on the device: reading one waits for it."""

    total: Tensor
    """Loss, a scalar."""
    count: int | Tensor = 0
    """Targets."""
    tokens: int | Tensor = 0
    """Tokens without padding."""
    metrics: dict[str, float | Tensor] = field(default_factory=dict)
    """Of the last micro-batch that had them."""


class GradientAccumulator:
    """Leaves the gradient of a step's whole loss sum, on this rank, in the parameters.

    Args:
        parameters: of the model.
        compute: the loss of a batch that is on the device.
        device: where the model is.
        autocast: makes the context of a forward pass.
        seed: with step, micro-step and rank, the seed of each forward pass.
        rank: of this process.
        message: called once with what a person should know after memory ran out.
        effective_batch: sequences per step on one rank, for the advice in that message.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        compute: Callable[[Batch], LossTerms],
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        seed: int,
        rank: int,
        message: Callable[[str], None],
        effective_batch: int,
    ) -> None:
        self._parameters = parameters
        self._compute = compute
        self._device = device
        self._autocast = autocast
        self._seed = seed
        self._rank = rank
        self._message = message
        self._effective_batch = effective_batch
        self.limit: int | None = None
        """Rows that are known not to be too many; None as long as everything fitted."""
        self._trying = 0
        self._untold: str | None = None

    def add_up(self, micro_batches: Sequence[Batch], step: int, scale: float = 1.0) -> Sums:
        """Forget the gradients there are, and compute those of ``scale`` x the summed loss of all micro-batches.

        Raises:
            UserError: not even one row fits.
        """
        while True:
            for parameter in self._parameters:
                parameter.grad = None
            sums = self._attempt(micro_batches, step, scale)
            if sums is not None:
                if self._untold is not None:
                    self._message(self._untold)
                    self._untold = None
                return sums
            release_memory(self._device)

    def _attempt(self, micro_batches: Sequence[Batch], step: int, scale: float) -> Sums | None:
        """All micro-batches, or None when memory ran out; then :attr:`limit` is smaller."""
        try:
            return self._all(micro_batches, step, scale)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._shrink(micro_batches[0], error)
        # Only here has the error gone, and with its traceback the activations that the traceback held.
        return None

    def _all(self, micro_batches: Sequence[Batch], step: int, scale: float) -> Sums:
        sums = Sums(torch.zeros((), device=self._device))
        for index, batch in enumerate(micro_batches):
            for number, piece in enumerate(split_rows(batch, self.limit)):
                self._trying = rows_of(piece)
                # A micro-batch in one piece has the seed that it always had.
                seed_device(self._device, self._seed, step, index, self._rank, *([number] if number else []))
                # Counted before it moves: on a GPU the answer would have to be waited for.
                sums.tokens += real_tokens(piece)
                on_device = {key: value.to(self._device, non_blocking=True) for key, value in piece.items()}
                with self._autocast():
                    terms = self._compute(on_device)
                (terms.total if scale == 1.0 else terms.total * scale).backward()  # type: ignore[no-untyped-call]
                sums.total += terms.total.detach()
                sums.count += terms.count
                sums.metrics.update(terms.metrics)
        return sums

    def _shrink(self, batch: Batch, error: BaseException) -> None:
        rows = self._trying
        if rows <= 1:
            length = max((tensor.shape[1] for tensor in batch.values() if tensor.ndim > 1), default=0)
            raise UserError(
                f"out of memory with a single sequence of {length:,} tokens ({first_line(error)})",
                hint="set training.gradient_checkpointing=true, or lower data.max_length or the size of the model",
            ) from None
        self.limit = math.ceil(rows / 2)
        size, steps = keep_effective_batch(self._effective_batch, self.limit)
        self._untold = (
            f"a micro-batch of {rows_of(batch)} sequences does not fit in memory; from here on it is computed in "
            f"pieces of at most {self.limit}, with the same result. For the next run: training.batch_size={size} "
            f"training.gradient_accumulation_steps={steps}"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """What an error says, without the advice and the stack that PyTorch appends."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def release_memory(device: torch.device) -> None:
    """Give back what nobody uses any more, so that a smaller attempt finds it in one piece."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def rows_of(batch: Batch) -> int:
    """Sequences in a batch."""
    return int(next(iter(batch.values())).shape[0])


def split_rows(batch: Batch, limit: int | None) -> Iterator[Batch]:
    """A batch as the fewest pieces of at most ``limit`` rows, of nearly equal size.

    Tensors without one entry for each row go with every piece.
    """
    rows = rows_of(batch)
    if limit is None or rows <= limit:
        yield batch
        return
    size = math.ceil(rows / math.ceil(rows / limit))
    for start in range(0, rows, size):
        yield {
            key: value[start : start + size] if value.ndim and value.shape[0] == rows else value
            for key, value in batch.items()
        }


def keep_effective_batch(effective: int, limit: int) -> tuple[int, int]:
    """The largest ``batch_size`` up to ``limit`` that divides ``effective`` sequences, and the accumulation steps.

    Example:
        >>> keep_effective_batch(48, 20)
        (16, 3)
    """
    size = max(size for size in range(1, min(limit, effective) + 1) if effective % size == 0)
    return size, effective // size
