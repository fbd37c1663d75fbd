"""Normalisation, activations and the feed-forward network against torch.nn and against the formulas."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from llm_trainer.models.layers import (
    ACTIVATIONS,
    FeedForward,
    LayerNorm,
    RMSNorm,
    layer_norm_formula,
    rms_norm_formula,
)
from llm_trainer.models.rms_norm import rms_norm
from tests.models.tiny import tiny_config


@pytest.mark.covers("R132")
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_equals_torch_and_formula(bias: bool) -> None:
    ours, theirs = LayerNorm(16, eps=1e-3, bias=bias), nn.LayerNorm(16, eps=1e-3, bias=bias)
    torch.nn.init.normal_(ours.weight)
    if ours.bias is not None:
        torch.nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 16) * 4 + 2
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x), layer_norm_formula(x, ours.weight, ours.bias, 1e-3))


@pytest.mark.covers("R132", "R151")
def test_rms_norm_equals_torch_and_formula() -> None:
    ours, theirs = RMSNorm(16, eps=1e-3), nn.RMSNorm(16, eps=1e-3)
    torch.nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 16) * 4 + 2
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x), rms_norm_formula(x, ours.weight, 1e-3))


@pytest.mark.covers("R132", "R151")
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("dtype", "weight_dtype"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16,) * 2,
    ],
)
def test_the_written_out_rms_norm_has_the_gradients_of_the_formula(
    dtype: torch.dtype, weight_dtype: torch.dtype, turned: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x, weight, gradient = draw(3, 5, 4, 16) * 4 + 2, draw(16), draw(3, 5, 4, 16)
    narrow = x.to(dtype).requires_grad_(), weight.to(weight_dtype).requires_grad_()
    exact = [tensor.detach().double().requires_grad_() for tensor in narrow]  # the same numbers, without rounding
    seen = [tensor.transpose(1, 2) if turned else tensor for tensor in (narrow[0], exact[0], gradient)]
    found, expected = rms_norm(seen[0], narrow[1], 1e-3), rms_norm_formula(seen[1], exact[1], 1e-3)
    found.backward(seen[2].to(dtype))
    expected.backward(seen[2].to(dtype).double())
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.04}[dtype]
    assert found.dtype == dtype
    for ours, theirs in ((found, expected), *((a.grad, b.grad) for a, b in zip(narrow, exact))):
        torch.testing.assert_close(ours.double(), theirs, atol=tolerance, rtol=tolerance)


def test_the_written_out_rms_norm_computes_only_the_gradients_that_are_wanted() -> None:
    x, weight = torch.randn(2, 16), torch.randn(16)
    for frozen in (x, weight):
        free = [tensor.clone().requires_grad_(tensor is not frozen) for tensor in (x, weight)]
        both = [tensor.clone().requires_grad_() for tensor in (x, weight)]
        rms_norm(*free, 1e-5).square().sum().backward()
        rms_norm(*both, 1e-5).square().sum().backward()
        for ours, expected in zip(free, both):
            assert (ours.grad is not None) is ours.requires_grad
            if ours.requires_grad:
                assert torch.equal(ours.grad, expected.grad)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_norms_keep_a_narrow_dtype(norm: type[nn.Module]) -> None:
    assert norm(16)(torch.randn(2, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.covers("R034")
@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("gelu", lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        ("relu", lambda x: max(x, 0.0)),
        ("relu2", lambda x: max(x, 0.0) ** 2),
        ("silu", lambda x: x / (1 + math.exp(-x))),
    ],
)
def test_activations_equal_their_formulas(name: str, formula) -> None:
    points = [-3.0, -0.5, 0.0, 0.7, 2.5]
    expected = torch.tensor([formula(x) for x in points])
    torch.testing.assert_close(ACTIVATIONS[name](torch.tensor(points)), expected)


@pytest.mark.covers("R150")
def test_swiglu_is_the_network_of_llama2c() -> None:
    """w2(silu(w1 x) * w3 x): run.c and model.py of llama2.c."""
    network = FeedForward(tiny_config(activation="swiglu"))
    w1, w2, w3 = network.gate_proj.weight, network.down_proj.weight, network.up_proj.weight
    x = torch.randn(4, 32)
    gate = x @ w1.T
    expected = ((gate / (1 + torch.exp(-gate))) * (x @ w3.T)) @ w2.T
    torch.testing.assert_close(network(x), expected)


def test_geglu_gates_with_the_exact_gelu() -> None:
    network = FeedForward(tiny_config(activation="geglu"))
    x = torch.randn(4, 32)
    expected = network.down_proj(nn.GELU()(network.gate_proj(x)) * network.up_proj(x))
    torch.testing.assert_close(network(x), expected)


@pytest.mark.covers("R134", "R034")
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "geglu"])
def test_feed_forward_works_position_by_position(activation: str) -> None:
    network = FeedForward(tiny_config(activation=activation, bias=True))
    x = torch.randn(2, 7, 32)
    whole = network(x)
    assert whole.shape == x.shape
    torch.testing.assert_close(whole[1, 3], network(x[1, 3]))
    whole.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.covers("R143")
def test_layer_norm_looks_at_one_token_where_batch_norm_looks_at_all() -> None:
    """What docs/concepts/families.md says of the two."""
    page = (Path(__file__).parents[2] / "docs" / "concepts" / "families.md").read_text(encoding="utf-8")
    assert "Why LayerNorm and not batch norm?" in page
    x = torch.randn(2, 5, 16)
    changed = x.clone()
    changed[1] += 3.0
    layer, batch = LayerNorm(16), torch.nn.BatchNorm1d(16)

    def batch_norm(rows: torch.Tensor) -> torch.Tensor:
        return batch(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])

    assert torch.equal(layer(x)[0], layer(changed)[0])
    assert not torch.allclose(batch_norm(x)[0], batch_norm(changed)[0])
