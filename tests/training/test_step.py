"""One step: what it reads from the device, and what it does with several processes of which one is short of memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from llm_trainer.training import CausalLM, LossTerms, Trainer
from llm_trainer.training.horizon import TrainState
from llm_trainer.training.optimizer import create_optimizer
from llm_trainer.training.precision import LossScaler, Precision
from llm_trainer.training.step import OptimizerStep
from llm_trainer.training.utils import seed_device, seed_everything
from tests.training.helpers import ListLoader, Recorder, config, tiny_model

CPU = torch.device("cpu")


class Reads(TorchDispatchMode):
    """Counts how often a program looks at the value of a tensor. On a GPU, each time is a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


class GivesLogits(nn.Module):
    """A model that is none of ours: the loss takes its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = tiny_model()

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.body(input_ids).logits)


def make_step(model: nn.Module, **changes: object) -> OptimizerStep:
    settings = config(**changes)
    return OptimizerStep(
        model,
        create_optimizer(model, settings),
        lambda batch: CausalLM().loss(model, batch),
        settings,
        device=CPU,
        precision=Precision("fp32", "cpu", "for the test"),
        scaler=LossScaler(False),
        message=pytest.fail,
    )


@pytest.mark.covers("R245")
def test_no_micro_step_looks_at_the_device() -> None:
    step = make_step(GivesLogits())
    batches = list(ListLoader().batches(0, 16))
    assert len(batches) == 4
    with Reads() as reads:
        step.accumulator.add_up(batches, 0)
    assert reads.count == 0
    with Reads() as reads:
        step.run(batches, TrainState(total_steps=10))
    # Loss, targets and norm; on a GPU they come over together.
    assert reads.count == 3


def test_numbers_on_the_device_come_over_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, taken on the CPU: the same numbers as the way of the CPU, with no single reads."""
    model = tiny_model()
    step = make_step(model)
    values = [torch.tensor(3.5), torch.tensor(2**24 + 1), 7, 0.25, 1.0]
    expected = step._read(values, torch.tensor(2.0))
    monkeypatch.setattr(step, "_device", SimpleNamespace(type="cuda"))
    monkeypatch.setattr(
        "llm_trainer.training.step._scalar", lambda value, dtype, device: torch.as_tensor(value).to(dtype)
    )
    with Reads() as reads:
        assert step._read(values, torch.tensor(2.0)) == expected == [3.5, 2.0**24 + 1, 7.0, 0.25, 1.0, 2.0]
    assert reads.count == 0


def test_seeding_one_device_draws_what_seeding_all_draws() -> None:
    seed_everything(1, 2, 3)
    expected = torch.rand(5)
    seed_device(CPU, 1, 2, 3)
    assert torch.equal(torch.rand(5), expected)


def test_metrics_of_an_objective_may_stay_on_the_device() -> None:
    class WithMetrics(CausalLM):
        def loss(self, model: nn.Module, batch: Any) -> LossTerms:
            terms = super().loss(model, batch)
            terms.metrics = {"tensor": terms.total.detach() * 0 + 2.5, "number": 1.5}
            return terms

    recorder = Recorder()
    Trainer(tiny_model(), config=config(logging_steps=2), objective=WithMetrics(), callbacks=[recorder]).fit(
        ListLoader()
    )
    assert [(log["train/tensor"], log["train/number"]) for log in recorder.logs] == [(2.5, 1.5)] * 3


RANK = """
import sys, torch
from llm_trainer.common.devices import rank
from llm_trainer.training import CausalLM, Trainer
from llm_trainer.training.microbatch import rows_of
from tests.training.helpers import ListLoader, Recorder, config, tiny_model

class Cramped(CausalLM):
    def loss(self, model, batch):
        if sys.argv[1] == "cramped" and rank() == 1 and rows_of(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().loss(model, batch)

class Mine(ListLoader):
    def batches(self, start, stop):
        for batch in super().batches(start, stop):
            yield {key: value[rank() :: 2] for key, value in batch.items()}

torch.set_num_threads(1)
model = tiny_model()
settings = config(optimizer="sgd", learning_rate=0.3, batch_size=4, gradient_accumulation_steps=2)
Trainer(model, config=settings, objective=Cramped(), callbacks=[Recorder()]).fit(Mine(batch_size=8))
print(sum(float((p.detach().double() * (i + 1)).sum()) for i, p in enumerate(model.parameters())))
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.covers("R278")
def test_one_rank_may_compute_in_pieces() -> None:
    def run(word: str) -> list[float]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, word],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **shared, "RANK": number, "LOCAL_RANK": number},
            )
            for number in ("0", "1")
        ]
        answers = [process.communicate(timeout=120) for process in ranks]
        assert [process.returncode for process in ranks] == [0, 0], answers
        return [float(output.split()[-1]) for output, _ in answers]

    plain, cramped = run("plain"), run("cramped")
    assert plain[0] == plain[1]
    assert cramped[0] == cramped[1]
    assert cramped[0] == pytest.approx(plain[0], rel=1e-6)
