"""Schedules against their formulas, optimizers against their references."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from llm_trainer.training.adafactor import Adafactor
from llm_trainer.training.horizon import due
from llm_trainer.training.optimizer import create_optimizer
from llm_trainer.training.scheduler import create_scheduler, learning_rate_factor, resolve_warmup_steps
from tests.training.helpers import config, tiny_model


@pytest.mark.covers("R048", "R260", "R264", "R265", "R266")
@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial", "constant", "wsd", "inverse_sqrt"])
def test_schedules_are_their_formulas(name: str) -> None:
    settings = config(
        max_steps=100, lr_scheduler=name, warmup_steps=10, min_learning_rate_ratio=0.1, polynomial_power=2.0
    )
    for step in range(151):
        progress = min(1.0, max(0.0, (step - 10) / 90))
        shape = {
            "cosine": 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2,
            "linear": 1 - 0.9 * progress,
            "polynomial": 0.1 + 0.9 * (1 - progress) ** 2,
            "constant": 1.0,
            "wsd": 0.1 + 0.9 * min(1.0, max(0.0, (100 - step) / 60)),
            "inverse_sqrt": max(0.1, math.sqrt(10 / max(step, 1))),
        }[name]
        expected = step / 10 if step < 10 else shape
        assert learning_rate_factor(settings, step, 100, 10) == pytest.approx(expected)


def reference_schedule(name: str, optimizer: torch.optim.Optimizer, warmup: int, total: int, floor: float) -> Any:
    """The schedule of transformers that ours is promised to be."""
    transformers = pytest.importorskip("transformers")
    if name == "cosine":
        return transformers.get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, total, min_lr_rate=floor)
    if name == "linear":
        return transformers.get_linear_schedule_with_warmup(optimizer, warmup, total)
    if name == "polynomial":
        return transformers.get_polynomial_decay_schedule_with_warmup(
            optimizer, warmup, total, lr_end=floor * optimizer.param_groups[0]["lr"], power=1.5
        )
    if name == "wsd":
        decay = min(round(0.6 * total), total - warmup)
        return transformers.get_wsd_schedule(
            optimizer, warmup, decay, num_training_steps=total, decay_type="linear", min_lr_ratio=floor
        )
    if name == "inverse_sqrt":
        return transformers.get_inverse_sqrt_schedule(optimizer, warmup)
    return transformers.get_constant_schedule_with_warmup(optimizer, warmup)


@pytest.mark.covers("R264", "R265", "R266")
@pytest.mark.parametrize(("warmup", "total", "floor"), [(7, 50, 0.0), (0, 33, 0.25), (30, 60, 0.1), (1, 2, 0.5)])
@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial", "constant", "wsd", "inverse_sqrt"])
def test_schedulers_equal_those_of_transformers(name: str, warmup: int, total: int, floor: float) -> None:
    if name in ("linear", "inverse_sqrt"):  # there without a floor
        floor = 0.0
    settings = config(
        max_steps=total,
        lr_scheduler=name,
        warmup_steps=warmup,
        min_learning_rate_ratio=floor,
        polynomial_power=1.5,
    )
    mine = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
    ours = create_scheduler(mine, settings, total)
    reference = reference_schedule(name, theirs, warmup, total, floor)
    for step in range(total + 1):
        # Their wsd warms up from the floor, ours (like all the others) from 0.
        if name != "wsd" or step >= warmup:
            assert mine.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-9), step
        for optimizer, scheduler in ((mine, ours), (theirs, reference)):
            optimizer.step()
            scheduler.step()


@pytest.mark.covers("R267")
def test_constant_with_logarithmic_warmup_is_deepspeeds_warmuplr() -> None:
    """min 0, max 6e-4, 2000 steps: DeepSpeed's default is log(step + 1) / log(2000), its other choice step / 2000."""
    for shape, expected in {
        "log": {0: 0.0, 1: 5.4715649e-05, 9: 1.8176145e-04, 999: 5.4528434e-04, 1999: 6e-4, 2000: 6e-4, 9999: 6e-4},
        "linear": {0: 0.0, 1: 3e-7, 500: 1.5e-4, 1999: 5.997e-4, 2000: 6e-4, 9999: 6e-4},
    }.items():
        settings = config(lr_scheduler="constant", warmup_steps=2000, warmup_shape=shape, max_steps=10_000)
        for step, rate in expected.items():
            assert 6e-4 * learning_rate_factor(settings, step, 10_000, 2000) == pytest.approx(rate, rel=1e-6)
    assert learning_rate_factor(config(warmup_shape="log"), 0, 10, 1) == 0.0


@pytest.mark.covers("R059")
def test_warmup_ratio_is_a_share_of_all_steps() -> None:
    assert resolve_warmup_steps(config(warmup_steps=None, warmup_ratio=0.1), 250) == 25
    assert resolve_warmup_steps(config(max_steps=None, warmup_steps=40), 30) == 30


def test_intervals_that_nobody_configured() -> None:
    assert [step for step in range(1, 101) if due(step, 100, None)] == [20, 40, 60, 80, 100]
    assert [step for step in range(1, 1001) if due(step, 1000, None)] == list(range(100, 1001, 100))
    assert [step for step in range(1, 8) if due(step, 7, None)] == [7]
    assert [step for step in range(1, 31) if due(step, 30, 10)] == [10, 20, 30]
    assert sum(due(step, 50_000, None, at_most=1000) for step in range(1, 50_001)) == 50


@pytest.mark.covers("R261")
def test_adamw_has_the_configured_numbers() -> None:
    optimizer = create_optimizer(tiny_model(), config(learning_rate=6e-4, weight_decay=0.1))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (6e-4, (0.9, 0.95), 1e-8, 0.1)
    assert optimizer.param_groups[1]["weight_decay"] == 0.0
    assert group["fused"]


@pytest.mark.covers("R048", "R262")
def test_adafactor_equals_the_reference_step_by_step() -> None:
    torch.manual_seed(0)
    start = [torch.randn(7, 5), torch.randn(6), torch.randn(3, 4, 2)]
    mine = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    theirs = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    ours = Adafactor(mine, lr=0.05, weight_decay=0.1)
    reference = torch.optim.Adafactor(theirs, lr=0.05, weight_decay=0.1, foreach=False)
    for _ in range(8):
        for a, b in zip(mine, theirs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        ours.step()
        reference.step()  # type: ignore[no-untyped-call]
        for a, b in zip(mine, theirs):
            assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.covers("R262")
@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_adafactor_equals_transformers_step_by_step(size: float) -> None:
    """Whatever the size of the gradients; a row that gets none, as tables have, included."""
    optimization = pytest.importorskip("transformers.optimization")
    torch.manual_seed(0)
    start = [torch.randn(7, 5), torch.randn(6), torch.randn(3, 4, 2), torch.zeros(4, 3)]
    mine = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    theirs = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    ours = Adafactor(mine, lr=1e-2)
    reference = optimization.Adafactor(theirs)
    for step in range(8):
        for a, b in zip(mine, theirs):
            a.grad = torch.randn_like(a) * size * (0.1 if step % 3 == 1 else 1.0)
            a.grad[0] = 0
            b.grad = a.grad.clone()
        ours.step()
        reference.step()
        for a, b in zip(mine, theirs):
            assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.covers("R262")
def test_adafactor_keeps_little_state() -> None:
    def state_bytes(name: str) -> int:
        model = tiny_model(d_model=128, n_heads=4)
        optimizer = create_optimizer(model, config(optimizer=name))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        tensors = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
        return sum(tensor.nbytes for tensor in tensors)

    assert state_bytes("adafactor") < 0.1 * state_bytes("adamw")
