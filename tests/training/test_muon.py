"""Muon against a plain loop over matrices, and against PyTorch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_trainer.training.muon import Muon, orthogonalise
from llm_trainer.training.optimizer import create_optimizer, optimizers_of, set_compute_dtype
from tests.training.helpers import config, tiny_model

SHAPES = [(16, 16), (16, 16), (12, 6), (6, 12), (48, 16), (16, 48), (20, 16), (1, 8), (3, 5, 4), (2, 2, 4, 9)]


def plain_newton_schulz(matrix: Tensor) -> Tensor:
    """Five iterations on one matrix, as in the text of Jordan et al., in float64."""
    x = matrix.double()
    x = x / max(float(x.norm()), 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def plain_step(weight: Tensor, gradient: Tensor, buffer: Tensor, momentum: float, decay: float, cautious: bool) -> None:
    """One update of one matrix, written out; lr 0.02."""
    buffer.copy_(momentum * buffer + (1 - momentum) * gradient)
    update = plain_newton_schulz((1 - momentum) * gradient + momentum * buffer).to(weight.dtype)
    mask = (update * weight >= 0).to(weight.dtype) if cautious else torch.ones_like(weight)
    rows, columns = weight.shape
    weight.copy_(weight - 0.02 * decay * mask * weight - 0.02 * max(1.0, rows / columns) ** 0.5 * update)


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize(("decay", "cautious"), [(0.0, True), (0.1, True), (0.1, False)])
def test_muon_equals_a_plain_loop_step_by_step(decay: float, cautious: bool) -> None:
    mine, expected = parameters(), [p.detach().clone() for p in parameters()]
    buffers = [torch.zeros_like(p) for p in expected]
    optimizer = Muon(mine, lr=0.02, momentum=0.9, weight_decay=decay, cautious=cautious)
    generator = torch.Generator().manual_seed(1)
    for step in range(5):
        for index, parameter in enumerate(mine):
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
            if index == 1 and step == 2:
                parameter.grad = None  # nothing moves without a gradient
        for parameter, weight, buffer in zip(mine, expected, buffers):
            if parameter.grad is not None:
                for w, g, b in zip(*(t.reshape(-1, *t.shape[-2:]) for t in (weight, parameter.grad, buffer))):
                    plain_step(w, g, b, 0.9, decay, cautious)
        optimizer.step()
        for parameter, weight in zip(mine, expected):
            assert torch.allclose(parameter, weight, rtol=0, atol=1e-6)


def test_muon_equals_pytorchs() -> None:
    """PyTorch's computes in bfloat16, and so does ours here; its decay is the plain one."""
    mine = [p for p in parameters() if p.ndim == 2]
    theirs = [nn.Parameter(p.detach().clone()) for p in mine]
    ours = Muon(mine, lr=0.02, momentum=0.95, weight_decay=0.1, cautious=False, compute_dtype=torch.bfloat16)
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1)
    for _ in range(4):
        for a, b in zip(mine, theirs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        before = [a.detach().clone() for a in mine]
        ours.step()
        reference.step()  # type: ignore[no-untyped-call]
        for a, b, start in zip(mine, theirs, before):
            # The same arithmetic in another order: a hundredth of the step.
            assert (a - b).norm() < 0.01 * (a - start).norm()
            b.data.copy_(a)


@pytest.mark.parametrize("shape", [(2, 64, 64), (2, 96, 32), (2, 32, 96)])
def test_bfloat16_stays_near_float32(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    exact, rough = orthogonalise(matrices), orthogonalise(matrices.bfloat16()).float()
    assert rough.isfinite().all()
    error = (exact - rough).norm(dim=(1, 2)) / exact.norm(dim=(1, 2))
    assert error.max() < 0.03
    assert torch.linalg.svdvals(rough).max() < 1.3


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 64, 16), (3, 16, 64), (2, 24, 100)])
@pytest.mark.parametrize("rank", [1, 2, 100])
def test_orthogonalise_equals_plain_iterations(shape: tuple[int, ...], rank: int) -> None:
    torch.manual_seed(0)
    rank = min(rank, *shape[1:])
    for matrices in (torch.randn(shape), torch.randn(shape[0], shape[1], rank) @ torch.randn(shape[0], rank, shape[2])):
        expected = torch.stack([plain_newton_schulz(matrix) for matrix in matrices]).float()
        # Directions that a matrix of low rank does not have are rounding errors, which five iterations blow up.
        assert torch.allclose(orthogonalise(matrices * 1e-4), expected, rtol=0, atol=3e-4)
    assert torch.equal(orthogonalise(torch.zeros(shape)), torch.zeros(shape))


def test_the_short_way_is_not_taken_where_products_are_rough(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, or told to multiply in it, the iteration on Gram matrices can diverge."""
    taken = []

    def short_way(x: Tensor, iterations: int) -> Tensor:
        taken.append(x.dtype)
        return x

    monkeypatch.setattr("llm_trainer.training.muon._orthogonalise_oblong", short_way)
    matrices = torch.randn(2, 16, 64)
    orthogonalise(matrices.bfloat16())
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "bf16"
        orthogonalise(matrices)
    finally:
        matmul.fp32_precision = before
    assert taken == []
    orthogonalise(matrices)
    assert taken == [torch.float32]


def test_newton_schulz_gives_a_nearly_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    for shape in ((2, 16, 32), (3, 16, 48), (1, 48, 16), (2, 24, 24)):
        matrices = torch.randn(shape)
        result = orthogonalise(matrices)
        singular = torch.linalg.svdvals(result)
        assert singular.min() > 0.3 and singular.max() < 1.3
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        exact = u @ vh
        cosine = (exact * result).sum(dim=(1, 2)) / (exact.norm(dim=(1, 2)) * result.norm(dim=(1, 2)))
        assert cosine.min() > 0.95


def test_stacks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for limit in (1, 500, 2**30):
        monkeypatch.setattr("llm_trainer.training.muon.CPU_STACK", limit)
        mine = parameters()
        optimizer = Muon(mine, lr=0.02, weight_decay=0.1)
        for parameter in mine:
            parameter.grad = torch.ones_like(parameter) + parameter.detach().sin()
        optimizer.step()
        results.append([p.detach().clone() for p in mine])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert torch.allclose(a, b, atol=1e-6)


def test_the_momentum_warms_up() -> None:
    weight = nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([weight], momentum=0.95, momentum_warmup_steps=10)
    expected = torch.zeros(4, 4)
    for step in range(14):
        weight.grad = torch.randn(4, 4)
        momentum = 0.85 + 0.10 * min(1.0, step / 10)
        expected = momentum * expected + (1 - momentum) * weight.grad
        optimizer.step()
        assert torch.allclose(optimizer.state[weight]["momentum"], expected, atol=1e-6)


def test_the_configuration_reaches_muon() -> None:
    settings = config(optimizer="muon", momentum=0.8, momentum_warmup_steps=3, muon_learning_rate=0.03)
    muon, adamw = optimizers_of(create_optimizer(tiny_model(), settings))
    group = muon.param_groups[0]
    assert (group["lr"], group["momentum"], group["momentum_warmup_steps"]) == (0.03, 0.8, 3)
    # Unset: cautious for matrices, plain for AdamW; a choice holds for both.
    assert group["cautious"] and type(adamw) is torch.optim.AdamW
    for choice in (True, False):
        parts = optimizers_of(create_optimizer(tiny_model(), config(optimizer="muon", cautious_weight_decay=choice)))
        assert parts[0].param_groups[0]["cautious"] is choice
        assert ("cautious_weight_decay" in parts[1].param_groups[0]) is choice


def test_muon_computes_in_the_format_of_the_run() -> None:
    optimizer = create_optimizer(tiny_model(), config(optimizer="muon"), compute_dtype=torch.bfloat16)
    muon = optimizers_of(optimizer)[0]
    assert isinstance(muon, Muon) and muon.compute_dtype == torch.bfloat16
    set_compute_dtype(optimizer, torch.float16)
    assert muon.compute_dtype == torch.float32
    default = optimizers_of(create_optimizer(tiny_model(), config(optimizer="muon")))[0]
    assert isinstance(default, Muon) and default.compute_dtype == torch.float32
