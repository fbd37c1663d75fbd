"""Loads of experts: counted once whatever happens, evened out, saved, and reported."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_trainer.models.moe_routing import Router
from llm_trainer.training import CausalLM, LossTerms, Trainer
from llm_trainer.training.microbatch import rows_of
from tests.training.helpers import ListLoader, Recorder, config, tiny_model

EXPERTS = 4
MOE: dict[str, Any] = {"n_experts": EXPERTS, "d_expert": 16}


def routers(model: nn.Module) -> list[Router]:
    return [module for module in model.modules() if isinstance(module, Router)]


def biases(model: nn.Module) -> Tensor:
    return torch.stack([router.expert_bias for router in routers(model)])


class Loads(Recorder):
    """Keeps the loads of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Tensor] = []

    def on_step(self, trainer: Any) -> None:
        super().on_step(trainer)
        self.steps.append(torch.stack(trainer._optimizer_step.balancing._loads))


def train(loader: Any = None, *, model: nn.Module | None = None, objective: Any = None, **changes: Any) -> Any:
    recorder, model = Loads(), model or tiny_model(**MOE)
    settings = config(**{"max_steps": 3, "batch_size": 8, "logging_steps": 1, **changes})
    trainer = Trainer(model, config=settings, objective=objective, callbacks=[recorder])
    trainer.fit(loader or ListLoader(batch_size=settings.batch_size))
    return trainer, recorder


class Short(CausalLM):
    """Has memory for two rows at a time, and notices in the middle of the backward pass."""

    def loss(self, model: nn.Module, batch: Any) -> LossTerms:
        terms = super().loss(model, batch)
        if rows_of(batch) > 2:
            terms.total = _FailsBackward.apply(terms.total)
        return terms


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.covers("R165")
@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 2, "gradient_accumulation_steps": 4},
        {"gradient_checkpointing": True},
        {"objective": Short()},
        {"use_ema": True},
    ],
    ids=["accumulated", "recomputed", "in pieces", "averaged"],
)
def test_a_token_counts_once_however_it_is_computed(changes: dict) -> None:
    plain, expected = train(optimizer="sgd", learning_rate=0.1)
    trainer, found = train(optimizer="sgd", learning_rate=0.1, **changes)
    for first, second in zip(expected.steps, found.steps, strict=True):
        assert torch.equal(first[:, :-1], second[:, :-1])
    assert torch.equal(biases(plain.model), biases(trainer.model))
    assert biases(plain.model).abs().max() > 0


@pytest.mark.covers("R165")
def test_every_layer_is_balanced_by_its_own_load() -> None:
    before = tiny_model(**MOE)
    trainer, recorder = train(model=before, max_steps=1, router_bias_rate=0.01)
    (loads,) = recorder.steps
    tokens = loads[:, :-1]
    assert not torch.equal(tokens[0], tokens[1])
    # Nothing depends on a row's last token; and in the last layer on none that predicts nothing. Two experts each.
    assert tokens.sum(dim=1).tolist() == [2 * 8 * 15, 2 * sum(15 - max(0, row - 1) for row in range(8))]
    assert torch.equal(biases(trainer.model), 0.01 * torch.sign(tokens.mean(dim=1, keepdim=True) - tokens))


def test_padding_does_not_count() -> None:
    class Padded(ListLoader):
        def batches(self, start: int, stop: int | None) -> Any:
            for batch in super().batches(start, stop):
                ids, documents = batch["input_ids"].clone(), torch.ones_like(batch["input_ids"])
                labels = ids.clone()
                ids[:, 10:], documents[:, 10:], labels[:, 10:] = 0, 0, -100
                yield {"input_ids": ids, "labels": labels, "document_ids": documents}

    _, recorder = train(Padded(batch_size=8), max_steps=1)
    tokens = recorder.steps[0][:, :-1].sum(dim=1)
    # Two experts for each of 10 tokens; the tenth matters to nobody after the last attention.
    assert tokens.tolist() == [8 * 9 * 2, 8 * 9 * 2]


class Skewed(ListLoader):
    """Half of all tokens are one and the same."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size=batch_size)
        common = torch.rand(self.rows.shape, generator=torch.Generator().manual_seed(5)) < 0.5
        self.rows = self.rows.masked_fill(common, 7)


@pytest.mark.covers("R165")
def test_biases_even_out_what_skewed_data_makes_uneven() -> None:
    def worst_ratio(rate: float) -> float:
        values = {"learning_rate": 3e-3, "batch_size": 8, "max_steps": 200, "logging_steps": 200}
        model = tiny_model(**MOE, experts_per_token=1, n_layers=1)
        _, recorder = train(Skewed(8), model=model, router_bias_rate=rate, **values)
        tokens = torch.stack(recorder.steps[-20:]).sum(dim=0)[:, :-1]
        return float((tokens.amax(dim=1) / tokens.amin(dim=1).clamp(min=1)).max())

    assert worst_ratio(0.005) < 2 < worst_ratio(0.0)


@pytest.mark.covers("R165")
def test_the_auxiliary_loss_evens_out_too_and_does_not_depend_on_micro_batches() -> None:
    common = {"optimizer": "sgd", "learning_rate": 0.1, "router_aux_loss": 0.5, "router_bias_rate": 0.0}
    one, _ = train(**common)
    many, _ = train(**common, batch_size=1, gradient_accumulation_steps=8)
    without, _ = train(**{**common, "router_aux_loss": 0.0})
    for first, second in zip(one.model.parameters(), many.model.parameters(), strict=True):
        assert torch.allclose(first, second, atol=1e-6)
    router = [routers(t.model)[0].linear.weight for t in (one, without)]
    assert not torch.allclose(*router, atol=1e-5)
    assert one.loss != without.loss  # the weights differ by now, and the loss that is told is that of text alone
    assert one.loss == pytest.approx(without.loss, abs=0.05)


@pytest.mark.covers("R165", "R291")
def test_a_resumed_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    class Stop(Recorder):
        def on_step(self, trainer: Any) -> None:
            if trainer.state.step == 4:
                trainer._guard.requested = "SIGTERM"

    def run(folder: Path, callbacks: list[Any], **more: Any) -> nn.Module:
        model = tiny_model(**MOE, dropout=0.1)
        settings = config(max_steps=9, batch_size=4, gradient_accumulation_steps=2, use_ema=True)
        Trainer(model, config=settings, run_dir=folder, callbacks=callbacks).fit(ListLoader(), **more)
        return model

    whole = run(tmp_path / "whole", [])
    run(tmp_path / "parts", [Stop()])
    parts = run(tmp_path / "parts", [], resume=True)
    assert biases(whole).abs().max() >= 0.002
    for (name, first), second in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(first, second), name


def test_a_frozen_router_keeps_its_biases() -> None:
    model = tiny_model(**MOE)
    for router in routers(model):
        router.linear.weight.requires_grad_(False)
    train(model=model)
    assert not biases(model).any()


@pytest.mark.covers("R166")
def test_the_metrics_say_how_busy_experts_are() -> None:
    _, recorder = train(max_steps=2)
    line, loads = recorder.logs[-1], recorder.steps[-1]
    assert line["moe/blocks.1/expert_2"] == loads[1, 2]
    tokens = loads[:, :-1]
    assert line["moe/load_ratio"] == pytest.approx(float((tokens.amax(1) / tokens.amin(1)).max()))
    assert line["moe/largest_load"] == pytest.approx(float((tokens.amax(1) / tokens.mean(1)).max()))
    # Routers with nearly equal scores: close to ln 4.
    assert 1.2 < line["moe/router_entropy"] <= 1.3863


def test_a_dense_model_has_no_such_metrics() -> None:
    recorder = Recorder()
    Trainer(tiny_model(), config=config(max_steps=1, logging_steps=1), callbacks=[recorder]).fit(ListLoader())
    assert recorder.logs and not [key for key in recorder.logs[-1] if key.startswith("moe/")]


RANK = """
import torch
from llm_trainer.common.devices import rank, world_size
from llm_trainer.training import Trainer
from tests.training.helpers import ListLoader, Recorder, config, tiny_model

class Mine(ListLoader):
    def batches(self, start, stop):
        for batch in super().batches(start, stop):
            yield {key: value[rank() :: world_size()] for key, value in batch.items()}

torch.set_num_threads(1)
model = tiny_model(n_experts=4, d_expert=16)
settings = config(optimizer="sgd", learning_rate=0.1, batch_size=8 // world_size(), max_steps=5, router_aux_loss=0.01)
Trainer(model, config=settings, callbacks=[Recorder()]).fit(Mine(batch_size=8))
print([round(v, 6) for block in model.blocks for v in block.feed_forward.router.expert_bias.tolist()])
print(sum(float((p.detach().double() * (i + 1)).sum()) for i, p in enumerate(model.parameters())))
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.covers("R165")
def test_two_ranks_balance_as_one() -> None:
    def run(ranks: int) -> list[list[str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", RANK],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **shared, "RANK": str(number), "LOCAL_RANK": str(number)},
            )
            for number in range(ranks)
        ]
        answers = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0] * ranks, answers
        return [output.split("\n")[-3:-1] for output, _ in answers]

    (alone,) = run(1)
    first, second = run(2)
    assert first == second
    assert first[0] == alone[0] != str([0.0] * 8)
    assert float(first[1]) == pytest.approx(float(alone[1]), rel=1e-6)
