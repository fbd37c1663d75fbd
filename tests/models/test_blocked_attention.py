"""Attention in blocks: the same numbers as the formula, whatever the length, the groups and what is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llm_trainer.models import blocked_attention as module
from llm_trainer.models.attention import explicit_attention, fused_attention
from llm_trainer.models.blocked_attention import blocked_attention


def inputs(seq: int, heads: int = 4, kv_heads: int = 4, width: int = 16, **options: object) -> list[Tensor]:
    torch.manual_seed(seq)
    shapes = [(2, heads, seq, width), (2, kv_heads, seq, width), (2, kv_heads, seq, width)]
    return [torch.randn(shape, **options).requires_grad_() for shape in shapes]  # type: ignore[call-overload]


def formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return explicit_attention(query, key, value, mask=None, causal=True, dropout=0.0)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("seq", [1, 5, 64, 127, 128, 129, 300])
def test_result_and_gradients_are_those_of_the_formula(
    seq: int, heads: int, kv_heads: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(module, "STORED_LENGTH", 0)
    leaves = inputs(seq, heads, kv_heads)
    results = []
    for function in (formula, blocked_attention):
        mixed = function(*leaves)
        direction = torch.linspace(-1, 1, mixed.numel()).view(mixed.shape)
        results.append([mixed, *torch.autograd.grad(mixed, leaves, direction)])
    for expected, got in zip(*results):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_about_as_close_to_the_truth_as_the_fused_kernel() -> None:
    """It rounds the scores, which that kernel does not; so does every product written out under autocast."""
    leaves = [leaf.detach().bfloat16().requires_grad_() for leaf in inputs(300)]
    exact_leaves = [leaf.detach().float().requires_grad_() for leaf in leaves]
    direction = torch.randn(2, 4, 300, 16)

    def gradients(mixed: Tensor, of: list[Tensor]) -> list[Tensor]:
        return [mixed.float(), *(g.float() for g in torch.autograd.grad(mixed, of, direction.to(mixed.dtype)))]

    exact = gradients(formula(*exact_leaves), exact_leaves)
    fused = gradients(torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True), leaves)
    ours = gradients(blocked_attention(*leaves), leaves)
    for truth, theirs, mine in zip(exact, fused, ours):
        assert (mine - truth).norm() < 2.5 * (theirs - truth).norm()
        assert (mine - truth).norm() < 0.01 * truth.norm()


def test_nothing_is_seen_of_the_future_and_nothing_kept_without_gradients() -> None:
    query, key, value = (leaf.detach() for leaf in inputs(200))
    before = blocked_attention(query, key, value)
    key[:, :, 150:], value[:, :, 150:] = 7.0, 7.0
    after = blocked_attention(query, key, value)
    assert torch.equal(before[:, :, :150], after[:, :, :150])
    assert not torch.allclose(before[:, :, 150:], after[:, :, 150:])
    with torch.no_grad():
        assert module._forward(query, key, value, False)[1].numel() == 0


def test_it_is_an_operator_that_the_compiler_can_trust() -> None:
    query, key, value = inputs(130, heads=4, kv_heads=2)
    torch.library.opcheck(module._forward, (query, key, value, True))


def test_the_model_uses_it_where_it_can_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def spy(*arguments: Tensor) -> Tensor:
        calls.append(arguments)
        return blocked_attention(*arguments)

    monkeypatch.setattr("llm_trainer.models.attention.blocked_attention", spy)
    query, key, value = inputs(20)
    fused_attention(query, key, value, mask=None, causal=True, dropout=0.0)
    assert len(calls) == 1
    mask = torch.zeros(1, 1, 20, 20)
    fused_attention(query, key, value, mask=mask, causal=False, dropout=0.0)
    fused_attention(query, key, value, mask=None, causal=True, dropout=0.5)
    assert len(calls) == 1
