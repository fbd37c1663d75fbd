"""One trial of a micro-batch: a few steps of the real loop on made-up text, and what they took.

``python -m llm_trainer.workflows.batch_trial`` does it in a process of its own, so that the memory of one trial is not
the memory of the one before: it reads the request as JSON and answers with one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch

from llm_trainer.common.devices import resolve_device
from llm_trainer.common.errors import UserError
from llm_trainer.config import RunConfig
from llm_trainer.config.loading import build
from llm_trainer.models import TransformerLM
from llm_trainer.monitoring.system import memory_peak
from llm_trainer.training import CausalLM, create_optimizer
from llm_trainer.training.ema import EMA
from llm_trainer.training.horizon import TrainState
from llm_trainer.training.microbatch import is_out_of_memory, release_memory
from llm_trainer.training.modules import prepare_model
from llm_trainer.training.objectives import Batch
from llm_trainer.training.precision import LossScaler, resolve_precision
from llm_trainer.training.step import OptimizerStep
from llm_trainer.training.utils import denormals_flushed
from llm_trainer.workflows.target import training_shape

LONGEST = 10
"""Steps at most; the first one is not timed."""
ENOUGH_SECONDS = 1.5
"""No further step begins after so long, once one is timed."""


@dataclass(frozen=True)
class Trial:
    """What a micro-batch took."""

    batch_size: int
    fits: bool
    peak: int
    """Bytes: of the whole process on a CPU, of the allocator on a GPU. What was seen, where it did not fit."""
    tokens_per_second: float


def made_up_batch(rows: int, length: int, vocabulary: int) -> Batch:
    """Random tokens, two documents in each row, as packing makes them."""
    middle = length // 2
    ids = torch.randint(vocabulary, (rows, length))
    labels, documents, positions = ids.clone(), torch.ones_like(ids), torch.arange(length).repeat(rows, 1)
    labels[:, [0, middle]] = -100
    documents[:, middle:] = 2
    positions[:, middle:] -= middle
    return {"input_ids": ids, "labels": labels, "document_ids": documents, "position_ids": positions}


def try_here(run: RunConfig, rows: int) -> Trial:
    """Train some steps with ``rows`` sequences in a micro-batch, in this process.

    Args:
        run: shape and settings. If its effective batch is larger than ``rows``, gradients are accumulated, as they will
            be: they take memory while the next micro-batch is computed.
        rows: sequences.
    """
    device = resolve_device(run.training.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times: list[float] = []
    fits = True
    try:
        with denormals_flushed():
            times.extend(_steps(run, rows, device))
    except (UserError, RuntimeError, MemoryError) as error:
        told = isinstance(error, UserError) and error.message.startswith("out of memory")
        if not (told or is_out_of_memory(error)):
            raise
        fits = False
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else memory_peak()
    release_memory(device)
    laps = sorted(after - before for before, after in pairwise(times))
    tokens = rows * _accumulation(run, rows) * training_shape(run)[1]
    return Trial(rows, fits, peak, tokens / laps[len(laps) // 2] if laps else 0.0)


def _accumulation(run: RunConfig, rows: int) -> int:
    """Two micro-steps are as good as twenty."""
    return 2 if rows < run.training.sequences_per_step() else 1


def _steps(run: RunConfig, rows: int, device: torch.device) -> Iterator[float]:
    """Train, and give the time after each step.

    Raises:
        MemoryError: the micro-batch had to be computed in pieces.
    """
    config, (shape, length) = run.training, training_shape(run)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    model = TransformerLM(shape).to(device).train()
    prepare_model(model, config, device, message=_silence)
    precision = resolve_precision(config, device)
    step = OptimizerStep(
        model,
        create_optimizer(model, config),
        lambda batch: CausalLM().loss(model, batch),
        config,
        device=device,
        precision=precision,
        scaler=LossScaler.from_config(config, enabled=precision.needs_scaler),
        ema=EMA(model, config.ema_decay) if config.use_ema else None,
        message=_silence,
    )
    batches = [made_up_batch(rows, length, shape.vocab_size)] * _accumulation(run, rows)
    began = time.perf_counter()
    for number in range(LONGEST):
        step.run(batches, TrainState(step=number, total_steps=LONGEST))
        if step.accumulator.limit is not None:
            raise MemoryError
        yield time.perf_counter()
        if number and time.perf_counter() - began > ENOUGH_SECONDS:
            return


def _silence(text: str) -> None:
    """What the loop would tell a person is an answer here."""


def main() -> None:
    """Read a request, try, answer."""
    request = json.load(sys.stdin)
    run = build(request["run"]).run
    with contextlib.redirect_stdout(sys.stderr):
        trial = try_here(run, request["rows"])
    print(json.dumps(asdict(trial)))


if __name__ == "__main__":
    main()
