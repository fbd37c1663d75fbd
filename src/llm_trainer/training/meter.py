"""Loss and speed between two lines of metrics."""

from __future__ import annotations

import time

from torch import Tensor

from llm_trainer.training.objectives import Batch


class Meter:
    """Adds up steps until it is read and reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin again, now."""
        self._loss_sum = 0.0
        self._targets = 0
        self._tokens = 0
        self._start = time.perf_counter()

    def add(self, loss: float, targets: int, tokens: int) -> None:
        """Take in one step.

        Args:
            loss: mean over its targets, nats.
            targets: tokens that were predicted.
            tokens: tokens that were read, padding not counted.
        """
        self._loss_sum += loss * targets
        self._targets += targets
        self._tokens += tokens

    def pause(self, seconds: float) -> None:
        """Time that was not training (validation) does not count against the speed."""
        self._start += seconds

    def summary(self) -> tuple[float, float]:
        """Mean loss per target, and tokens per second."""
        seconds = max(1e-9, time.perf_counter() - self._start)
        return self._loss_sum / max(1, self._targets), self._tokens / seconds


def real_tokens(batch: Batch) -> int | Tensor:
    """Tokens in a batch without padding; a tensor if the batch is on a GPU, which would have to be waited for."""
    marks = batch.get("document_ids")
    if marks is None:
        marks = batch.get("attention_mask")
    if marks is None:
        return batch["input_ids"].numel()
    count = (marks > 0).sum()
    if "decoder_attention_mask" in batch:  # the answers of an encoder-decoder
        count = count + (batch["decoder_attention_mask"] > 0).sum()
    return int(count) if count.device.type == "cpu" else count
