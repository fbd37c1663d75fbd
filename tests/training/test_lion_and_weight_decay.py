"""Lion and cautious AdamW against loops that are written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llm_trainer.training.adamw import AdamW
from llm_trainer.training.lion import Lion
from llm_trainer.training.optimizer import create_optimizer
from tests.training.helpers import config, tiny_model

SHAPES = [(5, 3), (7,), (2, 3, 4), ()]


def weights(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    """Another one at every step; sometimes 0, where cautious decay still decays."""
    tensors = weights(100 + step)
    tensors[0][0] = 0
    return tensors


def mask_of(update: Tensor, weight: Tensor, cautious: bool) -> Tensor:
    return (update * weight >= 0).float() if cautious else torch.ones_like(weight)


@pytest.mark.parametrize("cautious", [False, True])
def test_lion_equals_its_algorithm_step_by_step(cautious: bool) -> None:
    mine, expected = [nn.Parameter(w) for w in weights()], weights()
    momenta = [torch.zeros_like(w) for w in expected]
    optimizer = Lion(mine, lr=0.03, betas=(0.9, 0.99), weight_decay=0.5, cautious=cautious)
    for step in range(20):
        for index, gradient in enumerate(gradients(step)):
            mine[index].grad = gradient.clone()
            update = (0.9 * momenta[index] + 0.1 * gradient).sign()
            mask = mask_of(update, expected[index], cautious)
            expected[index] = expected[index] - 0.03 * (update + 0.5 * mask * expected[index])
            momenta[index] = 0.99 * momenta[index] + 0.01 * gradient
        optimizer.step()
        for parameter, weight in zip(mine, expected):
            assert torch.allclose(parameter, weight, atol=1e-6)
    assert [list(state) for state in optimizer.state.values()] == [["momentum"]] * len(SHAPES)


def test_lion_leaves_alone_what_has_no_gradient() -> None:
    moved, still = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lion([{"params": [moved]}, {"params": [still]}], lr=0.1, weight_decay=0.1)
    moved.grad = torch.ones(2)
    optimizer.step()
    assert moved.tolist() == pytest.approx([0.89, 0.89]) and still.tolist() == [1.0, 1.0]
    assert still not in optimizer.state


@pytest.mark.parametrize("fused", [True, False])
def test_cautious_adamw_equals_its_formula_step_by_step(fused: bool) -> None:
    mine, expected = [nn.Parameter(w) for w in weights()], weights()
    first, second = [torch.zeros_like(w) for w in expected], [torch.zeros_like(w) for w in expected]
    group = {"params": mine, "weight_decay": 0.0, "cautious_weight_decay": 0.5}
    optimizer = AdamW([group], lr=0.03, betas=(0.9, 0.95), eps=1e-8, fused=fused)
    for step in range(20):
        for index, gradient in enumerate(gradients(step)):
            mine[index].grad = gradient.clone()
            first[index] = 0.9 * first[index] + 0.1 * gradient
            second[index] = 0.95 * second[index] + 0.05 * gradient**2
            root = (second[index] / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8
            update = first[index] / (1 - 0.9 ** (step + 1)) / root
            mask = mask_of(update, expected[index], cautious=True)
            expected[index] = expected[index] - 0.03 * (update + 0.5 * mask * expected[index])
        optimizer.step()
        for parameter, weight in zip(mine, expected):
            assert torch.allclose(parameter, weight, atol=2e-6)


def test_cautious_decay_shrinks_less_than_plain_decay_and_more_than_none() -> None:
    def norm_after_training(**settings: object) -> float:
        model = tiny_model()
        optimizer = create_optimizer(model, config(learning_rate=1e-2, **settings))
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        matrices = [p for n, p in model.named_parameters() if n.endswith("proj.weight")]
        return float(torch.linalg.vector_norm(torch.stack([p.detach().norm() for p in matrices])))

    for name in ("adamw", "lion"):
        plain = norm_after_training(optimizer=name, weight_decay=1.0)
        cautious = norm_after_training(optimizer=name, weight_decay=1.0, cautious_weight_decay=True)
        none = norm_after_training(optimizer=name, weight_decay=0.0)
        assert plain < cautious < none


def test_memory_per_parameter_is_what_the_documentation_says() -> None:
    def numbers_per_parameter(name: str) -> float:
        subject = tiny_model(d_model=64)
        optimizer = create_optimizer(subject, config(optimizer=name))
        for parameter in subject.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        parts = getattr(optimizer, "parts", [optimizer])
        kept = [v for part in parts for s in part.state.values() for v in s.values() if isinstance(v, Tensor)]
        return sum(tensor.numel() for tensor in kept) / sum(p.numel() for p in subject.parameters())

    assert numbers_per_parameter("adamw") == pytest.approx(2, rel=0.01)
    assert numbers_per_parameter("lion") == numbers_per_parameter("sgd") == 1
    assert 1 < numbers_per_parameter("muon") < 1.2
    assert numbers_per_parameter("adafactor") < 0.1


def test_a_closure_computes_the_gradient() -> None:
    for kind in (Lion, AdamW):
        weight = nn.Parameter(torch.tensor([3.0]))
        optimizer = kind([weight], lr=0.1, weight_decay=0.0)

        def closure(weight: nn.Parameter = weight, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        assert optimizer.step(closure).item() == 9.0
        assert weight.item() == pytest.approx(2.9)
