"""Schedules against their formulas, optimizers against their references."""

from __future__ import annotations

import math

import pytest
import torch

from llm_trainer.training.adafactor import Adafactor
from llm_trainer.training.horizon import due
from llm_trainer.training.muon import Muon, orthogonalise
from llm_trainer.training.optimizer import create_optimizer, split_by_decay
from llm_trainer.training.scheduler import create_scheduler, learning_rate_factor, resolve_warmup_steps
from tests.training.helpers import config, tiny_model


@pytest.mark.covers("R048", "R260")
@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial", "constant", "wsd"])
def test_schedules_are_their_formulas(name: str) -> None:
    settings = config(
        max_steps=100, lr_scheduler=name, warmup_steps=10, min_learning_rate_ratio=0.1, polynomial_power=2.0
    )
    for step in (0, 5, 10, 37, 99, 100, 150):
        progress = min(1.0, max(0.0, (step - 10) / 90))
        shape = {
            "cosine": 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2,
            "linear": 1 - 0.9 * progress,
            "polynomial": 0.1 + 0.9 * (1 - progress) ** 2,
            "constant": 1.0,
            "wsd": 0.1 + 0.9 * min(1.0, max(0.0, (100 - step) / 60)),
        }[name]
        expected = step / 10 if step < 10 else shape
        assert learning_rate_factor(settings, step, 100, 10) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_scheduler_equals_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    settings = config(max_steps=50, lr_scheduler=name, warmup_steps=7, min_learning_rate_ratio=0.0)
    mine = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
    ours = create_scheduler(mine, settings, 50)
    reference = getattr(transformers, f"get_{name}_schedule_with_warmup")(theirs, 7, 50)
    for _ in range(50):
        assert mine.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-9)
        for optimizer, scheduler in ((mine, ours), (theirs, reference)):
            optimizer.step()
            scheduler.step()


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


@pytest.mark.covers("R259", "R263")
def test_norms_biases_and_embeddings_do_not_decay() -> None:
    model = tiny_model(norm="layernorm", bias=True, position="learned", tie_embeddings=False)
    decay, no_decay = split_by_decay(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {names[id(parameter)] for parameter in decay}
    resting = {names[id(parameter)] for parameter in no_decay}
    assert all(name.endswith("proj.weight") or name == "lm_head.weight" for name in decaying)
    assert decaying | resting == set(names.values())
    assert any("embed" in name for name in resting)
    assert all(model.get_parameter(name).ndim == 1 or "embed" in name for name in resting)


@pytest.mark.covers("R261")
def test_adamw_has_the_configured_numbers() -> None:
    optimizer = create_optimizer(tiny_model(), config(learning_rate=6e-4, weight_decay=0.1))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (6e-4, (0.9, 0.95), 1e-8, 0.1)
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


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


def test_newton_schulz_gives_a_nearly_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    for shape in ((2, 16, 32), (3, 16, 48), (1, 48, 16)):
        matrices = torch.randn(shape)
        result = orthogonalise(matrices)
        singular = torch.linalg.svdvals(result)
        assert singular.min() > 0.3 and singular.max() < 1.3
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        exact = u @ vh
        cosine = (exact * result).sum(dim=(1, 2)) / (exact.norm(dim=(1, 2)) * result.norm(dim=(1, 2)))
        assert cosine.min() > 0.95


def test_muon_is_its_definition() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(12, 6))
    expected = weight.detach().clone()
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.0)
    momentum = torch.zeros(12, 6)
    for _ in range(3):
        gradient = torch.randn(12, 6)
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        nesterov = 0.1 * gradient + 0.9 * momentum
        expected -= 0.1 * 2**0.5 * orthogonalise(nesterov.unsqueeze(0))[0]
        assert torch.allclose(weight, expected, atol=1e-5)


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest() -> None:
    model = tiny_model(tie_embeddings=False)
    optimizer = create_optimizer(model, config(optimizer="muon"))
    muon, adamw = optimizer.parts  # type: ignore[attr-defined]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    others = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert hidden == {name for name in names.values() if name.startswith("blocks.") and name.endswith("proj.weight")}
    assert hidden | others == set(names.values())
    assert not hidden & others
