"""A micro-batch that does not fit is computed in pieces, and the run is the one that it would have been."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_trainer.common.errors import UserError
from llm_trainer.training import CausalLM, LossTerms, Trainer
from llm_trainer.training.microbatch import is_out_of_memory, keep_effective_batch, rows_of, split_rows
from tests.training.helpers import ListLoader, Recorder, config, tiny_model

CPU_ERROR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


class _FailsInBackward(torch.autograd.Function):
    """The identity; its gradient runs out of memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, error: BaseException) -> Tensor:
        ctx.error = error
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise ctx.error


class Cramped(CausalLM):
    """Memory for ``room`` rows; with more it runs out, forward or in the middle of the backward pass."""

    def __init__(self, room: int, where: str, error: BaseException, from_step: int = 0) -> None:
        super().__init__()
        self.room, self.where, self.error = room, where, error
        self.sizes: list[int] = []
        self.half_done = 0
        self.calls_before_trouble = from_step

    def loss(self, model: torch.nn.Module, batch: Any) -> LossTerms:
        rows = rows_of(batch)
        self.sizes.append(rows)
        trouble = rows > self.room and len(self.sizes) > self.calls_before_trouble
        if not trouble:
            return super().loss(model, batch)
        if self.where == "forward":
            raise self.error
        # Between the two blocks: by then the second one has its gradients, which must not count.
        handle = model.blocks[0].register_forward_hook(  # type: ignore[union-attr, operator]
            lambda module, inputs, output: _FailsInBackward.apply(output, self.error)
        )
        try:
            terms = super().loss(model, batch)
        finally:
            handle.remove()
        self.half_done += 1
        return terms


def train(objective: CausalLM, recorder: Recorder | None = None, **changes: object) -> tuple[Trainer, Tensor]:
    model = tiny_model()
    # With SGD a difference in the gradients stays as small as it is; AdamW divides by their size.
    settings = config(**{"optimizer": "sgd", "learning_rate": 0.3, **changes})
    trainer = Trainer(model, config=settings, objective=objective, callbacks=[recorder or Recorder()])
    trainer.fit(ListLoader(batch_size=trainer.config.batch_size))
    return trainer, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.covers("R278")
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_ERROR), MemoryError()]
)
@pytest.mark.parametrize(("room", "accumulation"), [(4, 1), (2, 3), (1, 2)])
def test_the_run_is_the_one_with_enough_memory(where: str, error: BaseException, room: int, accumulation: int) -> None:
    plain, expected = train(CausalLM(), batch_size=8, gradient_accumulation_steps=accumulation)
    cramped = Cramped(room, where, error)
    recorder = Recorder()
    trainer, weights = train(cramped, recorder, batch_size=8, gradient_accumulation_steps=accumulation)
    assert torch.allclose(weights, expected, atol=2e-6)
    assert (trainer.state.step, trainer.state.tokens) == (plain.state.step, plain.state.tokens)
    assert trainer.loss == pytest.approx(plain.loss, rel=1e-5)
    # Each halving is found once; from then on nothing larger is tried.
    assert [size for size in cramped.sizes if size > room] == [size for size in (8, 4, 2) if size > room]
    assert cramped.half_done == (0 if where == "forward" else len([size for size in (8, 4, 2) if size > room]))
    assert len(recorder.messages) == 1
    steps = 8 * accumulation // room
    assert f"training.batch_size={room} training.gradient_accumulation_steps={steps}" in recorder.messages[0]


@pytest.mark.covers("R278")
def test_memory_that_runs_out_in_the_middle_of_a_step_does_not_count_gradients_twice() -> None:
    """The first micro-batches of the step were done, and their gradients added, when the third one failed."""
    _, expected = train(CausalLM(), batch_size=4, gradient_accumulation_steps=4)
    cramped = Cramped(2, "backward", RuntimeError(CPU_ERROR), from_step=6)
    _, weights = train(cramped, batch_size=4, gradient_accumulation_steps=4)
    assert cramped.half_done == 1
    assert torch.allclose(weights, expected, atol=2e-6)


@pytest.mark.covers("R278")
def test_one_row_that_does_not_fit_is_one_message() -> None:
    recorder = Recorder()
    with pytest.raises(UserError, match="out of memory with a single sequence of 16 tokens") as caught:
        train(Cramped(0, "forward", RuntimeError(CPU_ERROR)), recorder, batch_size=4)
    assert "gradient_checkpointing" in str(caught.value)
    assert recorder.outcome == "failed"


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(Cramped(2, "forward", RuntimeError("mat1 and mat2 shapes cannot be multiplied")), batch_size=4)


@pytest.mark.covers("R278")
def test_an_optimizer_that_does_not_fit_is_one_message() -> None:
    class Full(Recorder):
        def on_start(self, trainer: Any) -> None:
            def step() -> None:
                raise torch.OutOfMemoryError("CUDA out of memory.")

            trainer.optimizer.step = step

    with pytest.raises(UserError, match="the state of adamw does not fit"):
        train(CausalLM(), Full(), optimizer="adamw")


def test_pieces_hold_every_row_once_and_are_nearly_equal() -> None:
    batch = {"input_ids": torch.arange(20).view(10, 2), "labels": torch.arange(10), "scale": torch.tensor(3.0)}
    for limit, sizes in ((None, [10]), (10, [10]), (9, [5, 5]), (4, [4, 4, 2]), (3, [3, 3, 3, 1]), (1, [1] * 10)):
        pieces = list(split_rows(batch, limit))
        assert [rows_of(piece) for piece in pieces] == sizes
        for key in ("input_ids", "labels"):
            assert torch.equal(torch.cat([piece[key] for piece in pieces]), batch[key])
        assert all(torch.equal(piece["scale"], batch["scale"]) for piece in pieces)


def test_advice_keeps_the_effective_batch() -> None:
    for effective in range(1, 61):
        for limit in range(1, 70):
            size, steps = keep_effective_batch(effective, limit)
            assert size * steps == effective
            assert size <= limit
            assert not [other for other in range(size + 1, min(limit, effective) + 1) if effective % other == 0]


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(ValueError("out of memory"))


REAL = """
import resource, sys
import psutil, torch
from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.models import TransformerLM
from llm_trainer.training import Trainer
from llm_trainer.training.callbacks import Callback

class Loader:
    fingerprint = "rows"
    def __len__(self): return 64
    def batches(self, start, stop):
        rows = torch.randint(0, 64, (64, 128), generator=torch.Generator().manual_seed(0))
        while start < stop:
            ids = rows[start % 64 : start % 64 + 32]
            yield {"input_ids": ids, "labels": ids}
            start += 32

class Say(Callback):
    def on_message(self, trainer, text): print("MESSAGE", text)

def make(**changes):
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(vocab_size=64, d_model=128, n_heads=4, n_layers=6, max_seq_len=128))
    values = {"max_steps": 3, "batch_size": 32, "device": "cpu", "precision": "fp32", "num_threads": 1, "tune": False}
    return Trainer(model, None, TrainingConfig(**{**values, **changes}), callbacks=[Say()])

class Row(Loader):
    def batches(self, start, stop):
        yield {key: rows[:1] for key, rows in next(super().batches(0, 1)).items()}

make(max_steps=1, batch_size=1).fit(Row())  # what PyTorch imports in a first step takes address space too
limit, hard = psutil.Process().memory_info().vms + (100 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
cramped = make().fit(Loader()).loss
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
print("DONE")
print("LOSSES", cramped, make().fit(Loader()).loss)
"""


@pytest.mark.covers("R278")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited with RLIMIT_AS")
def test_a_process_with_too_little_memory_ends_with_the_same_loss() -> None:
    result = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    # One message while memory was short, and none after.
    message, done, losses = result.stdout.splitlines()
    assert message.startswith("MESSAGE a micro-batch of 32 sequences does not fit in memory")
    assert done == "DONE"
    cramped, plain = map(float, losses.split()[1:])
    assert cramped == pytest.approx(plain, rel=1e-4)
