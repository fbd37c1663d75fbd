"""What start-up tuning measures with: a short model of the run's own shape, stepped on made-up text."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from llm_trainer.common.allocator import return_freed_memory, reuse_freed_memory
from llm_trainer.common.devices import matmul_peak
from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.data.chunk import PackedSequence
from llm_trainer.data.collate import collate
from llm_trainer.models import TransformerLM
from llm_trainer.models.checkpointing import apply_activation_checkpointing
from llm_trainer.training.modules import compile_blocks
from llm_trainer.training.objectives import Batch, CausalLM
from llm_trainer.training.precision import DTYPES, Format, Precision

BLOCKS = 2
"""Blocks of the probe model at most; the others would take the same time again."""
TOKENS = 1024
"""Tokens of a probe step, about."""
COMFORTABLE_SECONDS = 0.25
"""A step that is expected to take longer on one thread gets fewer rows..."""
LONGEST_SECONDS = 1.0
"""...and a model whose single row takes longer is not stepped at all."""
EXPECTED_UTILISATION = 0.5
"""Share of the matrix rate that the expectation assumes."""
LEAST_STEPS, MOST_STEPS = 2, 7
"""Timed steps of one setting."""
SETTING_SECONDS = 0.25
"""No further step of a setting begins after so long, once the least number is timed."""
MATMUL_SECONDS, MATMUL_SIZE = 0.04, 384
"""Of the matrix products that are timed before anything else."""


@dataclass(frozen=True)
class Setting:
    """One way to compute."""

    precision: Format
    num_threads: int
    reuse_memory: bool
    rows: int
    """Sequences of a micro-step."""
    compile: bool = False


class Measurer:
    """Times settings on one shape. Of everything that it changes in the process, nothing is left after :meth:`close`.

    Args:
        shape: of the run's model.
        config: how it will be trained; the loss and recomputed activations follow it.
        seq_len: tokens of a sequence.
    """

    def __init__(self, shape: ModelConfig, config: TrainingConfig, seq_len: int) -> None:
        self._shape = shape
        self._config = config
        self._seq_len = seq_len
        self._models: dict[bool, TransformerLM] = {}
        self._objective = CausalLM(config.z_loss)
        self._threads = torch.get_num_threads()
        self._reusing = False
        self.blocks = min(BLOCKS, shape.n_layers)
        with torch.device("meta"):
            whole, probe = TransformerLM(shape), TransformerLM(self._probe_shape())
        self._flops = probe.flops_per_token(seq_len)
        self.scale = whole.flops_per_token(seq_len) / self._flops
        """How many times the arithmetic of the probe the whole model needs for a token."""

    def matmul_rate(self, precision: Format, threads: int) -> float:
        """FLOP/s of matrix products on so many threads; the typical rate, as with :meth:`seconds`.

        Small products, because a processor without bfloat16 may take hundreds of times longer for it.
        """
        with self._with_threads(threads):
            dtype = DTYPES[precision]
            return matmul_peak(torch.device("cpu"), dtype, seconds=MATMUL_SECONDS, size=MATMUL_SIZE, typical=True)

    def rows(self, rate: float) -> int | None:
        """Sequences of a probe step on a processor of ``rate`` FLOP/s; None if even one would take too long."""
        row_seconds = self._flops * self._seq_len / (EXPECTED_UTILISATION * rate)
        if row_seconds > LONGEST_SECONDS:
            return None
        return max(1, min(TOKENS // self._seq_len, int(COMFORTABLE_SECONDS / row_seconds)))

    def seconds(self, setting: Setting, worst: float) -> float:
        """Seconds of a typical step: forward and backward pass of one micro-batch.

        The median, not the best: what a busy machine does to a setting belongs to it. A step that takes longer than
        ``worst`` ends the timing, for it cannot win any more.
        """
        model = self._model(setting.compile)
        batch = self._batch(setting.rows)
        if setting.reuse_memory != self._reusing:
            (reuse_freed_memory if setting.reuse_memory else return_freed_memory)()
            self._reusing = setting.reuse_memory
        precision = Precision(setting.precision, "cpu", "being measured")
        with self._with_threads(setting.num_threads), _own_random_numbers():
            warm_up = self._step(model, batch, precision)
            if warm_up > worst and not setting.compile:
                return warm_up
            times: list[float] = []
            began = time.perf_counter()
            while len(times) < LEAST_STEPS or (
                len(times) < MOST_STEPS and time.perf_counter() - began < SETTING_SECONDS
            ):
                times.append(self._step(model, batch, precision))
                if times[-1] > worst:
                    break
        return statistics.median(times)

    def close(self) -> None:
        """Leave threads and allocator as they were."""
        self._models.clear()
        torch.set_num_threads(self._threads)
        if self._reusing:
            return_freed_memory()
            self._reusing = False

    def _step(self, model: TransformerLM, batch: Batch, precision: Precision) -> float:
        started = time.perf_counter()
        for parameter in model.parameters():
            parameter.grad = None
        with precision.autocast():
            terms = self._objective.loss(model, batch)
        terms.total.backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - started

    def _model(self, compiled: bool) -> TransformerLM:
        if compiled not in self._models:
            with _own_random_numbers():
                model = TransformerLM(self._probe_shape()).train()
            if self._config.gradient_checkpointing:
                apply_activation_checkpointing(model, every=self._config.gradient_checkpointing_every)
            if compiled:
                compile_blocks(model, torch.device("cpu"), message=_silence)
            self._models[compiled] = model
        return self._models[compiled]

    def _probe_shape(self) -> ModelConfig:
        shape = self._shape.model_copy(deep=True)
        shape.n_layers = min(BLOCKS, shape.n_layers)
        # Of layers with and without experts, one of each.
        shape.moe_every, shape.first_dense_layers = min(shape.moe_every, shape.n_layers), 0
        return shape

    def _batch(self, rows: int) -> Batch:
        """Random tokens, two documents in each row, as packing makes them."""
        generator = np.random.default_rng(0)
        length = self._seq_len
        pieces = np.array([length // 2, length - length // 2], dtype=np.uint32)
        tokens = generator.integers(self._shape.vocab_size, size=(rows, length), dtype=np.uint32)
        return collate([PackedSequence(row, pieces) for row in tokens], length)

    @contextlib.contextmanager
    def _with_threads(self, count: int) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _own_random_numbers() -> contextlib.AbstractContextManager[None]:
    """Initial weights and dropout of the run must not depend on whether something was measured before."""
    return torch.random.fork_rng(devices=[])


def _silence(text: str) -> None:
    """What compiling has to say, it says when the run's own model is compiled."""
