"""Attention alone: the two backends, causality, grouped heads."""

from __future__ import annotations

import pytest
import torch

from llm_trainer.models import attention
from llm_trainer.models.attention import MultiHeadAttention
from llm_trainer.models.context import AttentionContext
from tests.models.tiny import tiny_config, tiny_model, token_ids


@pytest.mark.covers("R130", "R133")
def test_attention_does_not_look_ahead() -> None:
    attention = MultiHeadAttention(tiny_config())
    x = torch.randn(1, 8, 32)
    changed = x.clone()
    changed[0, 5:] = torch.randn(3, 32)
    before, after = attention(x), attention(changed)
    assert torch.equal(before[0, :5], after[0, :5])
    assert (before[0, 5:] - after[0, 5:]).abs().min(dim=0).values.max() > 1e-4


@pytest.mark.covers("R133")
def test_attention_is_the_textbook_sum() -> None:
    """One head, computed query by query in plain arithmetic."""
    attention = MultiHeadAttention(tiny_config(n_heads=1))
    x = torch.randn(5, 32)
    query, key, value = (x @ layer.weight.T for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    rows = []
    for t in range(5):
        scores = torch.stack([query[t] @ key[s] / 32**0.5 for s in range(t + 1)])
        weights = scores.exp() / scores.exp().sum()
        rows.append(sum(weights[s] * value[s] for s in range(t + 1)))
    torch.testing.assert_close(attention(x[None])[0], torch.stack(rows) @ attention.o_proj.weight.T)


CASES = [
    {"n_kv_heads": 4},
    {"n_kv_heads": 2},
    {"n_kv_heads": 1},
    {"n_kv_heads": 2, "qk_norm": True},
    {"n_kv_heads": 4, "bias": True},
    {"n_kv_heads": 2, "position": "alibi"},
    {"n_kv_heads": 1, "position": "learned"},
]


@pytest.mark.covers("R152")
@pytest.mark.parametrize("masked", ["causal", "documents", "padding"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_fused_kernels_equal_the_written_out_attention(case: dict, masked: str) -> None:
    fused, explicit = tiny_model(**case), tiny_model(**case, attention_backend="explicit")
    explicit.load_state_dict(fused.state_dict())
    extra = {
        "causal": {},
        "documents": {"document_ids": torch.tensor([[1] * 5 + [2] * 7, [1] * 12])},
        "padding": {"attention_mask": torch.tensor([[0] * 4 + [1] * 8, [1] * 12])},
    }[masked]
    ids = token_ids()
    ours, reference = fused(ids, labels=ids, **extra), explicit(ids, labels=ids, **extra)
    torch.testing.assert_close(ours.logits, reference.logits, atol=1e-5, rtol=0)
    ours.loss.backward()
    reference.loss.backward()
    for (name, a), (_, b) in zip(fused.named_parameters(), explicit.named_parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.covers("R152")
def test_the_default_never_writes_out_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain causal attention goes in blocks on a CPU and makes no mask; documents go to PyTorch's fused kernel."""
    calls = []
    real, real_blocked = torch.nn.functional.scaled_dot_product_attention, attention.blocked_attention

    def spy(*args, **kwargs):
        calls.append(("fused", kwargs["attn_mask"] is not None))
        return real(*args, **kwargs)

    def spy_blocked(*args):
        calls.append(("blocked", False))
        return real_blocked(*args)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(attention, "blocked_attention", spy_blocked)
    tiny_model()(token_ids())
    assert calls == [("blocked", False)] * 2  # one per layer
    tiny_model()(token_ids(), document_ids=torch.zeros_like(token_ids()))
    assert calls[2:] == [("fused", True)] * 2
    tiny_model(attention_backend="explicit")(token_ids())
    assert len(calls) == 4


def test_a_padding_mask_of_ones_costs_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []
    real = MultiHeadAttention.forward

    def spy(self, x, context=None):
        masks.append(context.mask)
        return real(self, x, context)

    monkeypatch.setattr(MultiHeadAttention, "forward", spy)
    model, ids = tiny_model(), token_ids()
    model(ids, attention_mask=torch.ones_like(ids))
    model(ids, document_ids=torch.ones_like(ids))
    assert masks[:2] == [None, None]
    assert masks[2] is masks[3] is not None  # made once, not once a layer


@pytest.mark.covers("R148", "R149")
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_heads_equal_full_heads_with_repeated_weights(kv_heads: int) -> None:
    grouped, full = MultiHeadAttention(tiny_config(n_kv_heads=kv_heads)), MultiHeadAttention(tiny_config())
    assert grouped.k_proj.weight.numel() * 4 == full.k_proj.weight.numel() * kv_heads
    state = grouped.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        state[name] = state[name].view(kv_heads, 8, 32).repeat_interleave(4 // kv_heads, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    x = torch.randn(2, 6, 32)
    torch.testing.assert_close(grouped(x), full(x))


def test_qk_norm_bounds_the_scores() -> None:
    """However large the inputs, normalised queries and keys keep attention from collapsing on one token."""
    plain, normed = MultiHeadAttention(tiny_config()), MultiHeadAttention(tiny_config(qk_norm=True))
    state = {**normed.state_dict(), **plain.state_dict()}
    normed.load_state_dict(state)
    x = torch.randn(1, 6, 32)
    change = lambda layer: (layer(x * 100) / 100 - layer(x)).abs().max().item()  # noqa: E731
    assert change(normed) < 1e-3 < change(plain)


def test_attention_dropout_acts_in_training_only() -> None:
    attention = MultiHeadAttention(tiny_config(attn_dropout=0.5))
    x = torch.randn(2, 6, 32)
    assert not torch.equal(attention.train()(x), attention(x))
    assert torch.equal(attention.eval()(x), attention(x, AttentionContext()))
