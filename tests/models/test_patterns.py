"""Attention patterns: every backend gives what an independent list of who sees whom gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.models import TransformerLM, attention, context, flex, patterned_attention, patterns
from llm_trainer.models.attention import MultiHeadAttention, explicit_attention
from llm_trainer.models.context import AttentionContext, build_context
from llm_trainer.models.patterns import AttentionPattern, layer_pattern
from tests.models.tiny import enlivened, tiny_config, tiny_model, token_ids

PATTERNS: dict[str, dict[str, Any]] = {
    "everything": {},
    "window": {"sliding_window": 4},
    "window of one": {"sliding_window": 1},
    "longformer": {"sliding_window": 3, "global_tokens": 2},
    "blocks": {"sparse_block": 2, "sparse_stride": 3},
    "blocks with global tokens": {"sparse_block": 3, "sparse_stride": 2, "global_tokens": 1},
}


def sees(query: int, key: int, pattern: dict[str, Any], causal: bool = True) -> bool:
    """The rules, said again in plain words and plain Python."""
    if causal and key > query:
        return False
    first = pattern.get("global_tokens", 0)
    if query < first or key < first:
        return True
    if "sliding_window" in pattern:
        return key in range(query - pattern["sliding_window"] + 1, query + pattern["sliding_window"])
    if "sparse_block" in pattern:
        mine, other = query // pattern["sparse_block"], key // pattern["sparse_block"]
        return other in (mine - 1, mine, mine + 1) or other % pattern["sparse_stride"] == 0
    return True


def brute_force_mask(seq: int, pattern: dict[str, Any], causal: bool = True) -> Tensor:
    """0 where a query may look, -inf elsewhere: (query, key)."""
    rows = [[0.0 if sees(q, k, pattern, causal) else float("-inf") for k in range(seq)] for q in range(seq)]
    return torch.tensor(rows)


def twin(model: TransformerLM, **changes: Any) -> TransformerLM:
    """A model of the same weights and another configuration."""
    other = TransformerLM(model.config.model_copy(update=changes)).eval()
    other.load_state_dict(model.state_dict())
    return other


def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention without its compiler, which needs seconds for every shape."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(flex, "_kernel", lambda: flex_attention)


@pytest.mark.covers("R152", "R153", "R154", "R155")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("position", ["rope", "alibi", "learned", "relative"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=list(PATTERNS))
def test_all_backends_equal_the_formula_with_a_brute_force_mask(
    pattern: dict[str, Any], kv_heads: int, position: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "QUERY_BLOCK", 5)  # several blocks, and a last one that is not full
    uncompiled(monkeypatch)
    model, ids = tiny_model(n_kv_heads=kv_heads, position=position, **pattern), token_ids(seq=17)
    expected = with_brute_force(model, ids, pattern, monkeypatch)
    backends = ["sdpa", "explicit"] if position == "relative" else ["sdpa", "explicit", "flex"]
    with torch.no_grad():
        for backend in backends:
            logits = twin(model, attention_backend=backend)(ids).logits
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5, msg=backend)


@torch.no_grad()
def with_brute_force(model: TransformerLM, ids: Tensor, pattern: dict[str, Any], patch: pytest.MonkeyPatch) -> Tensor:
    """The logits of plain attention whose scores get the brute-force mask besides the model's own bias."""
    plain = twin(model, sliding_window=None, sparse_block=None, global_tokens=0, attention_backend="explicit")
    mask = brute_force_mask(ids.shape[1], pattern)

    def masked(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        bias = options["mask"]
        whole = mask if bias is None else mask + bias.masked_fill(bias == float("-inf"), 0.0)
        return explicit_attention(query, key, value, mask=whole, causal=False, dropout=0.0)

    for block in plain.blocks:
        patch.setattr(block.attention, "backend", masked)
    return plain(ids).logits


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=list(PATTERNS))
def test_the_kernel_equals_the_mask_forward_and_backward(
    pattern: dict[str, Any], kv_heads: int, documents: bool, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "QUERY_BLOCK", 4)
    torch.manual_seed(0)
    leaves = [torch.randn(2, heads, 19, 8, requires_grad=True) for heads in (4, kv_heads, kv_heads)]
    lengths = [[7, 1, 11], [2, 9, 8]] if documents else [[19], [19]]
    mask = torch.full((2, 1, 19, 19), float("-inf"))
    starts = torch.zeros(2, 19, dtype=torch.int64)
    for row, pieces in enumerate(lengths):
        begin = 0
        for piece in pieces:
            mask[row, 0, begin : begin + piece, begin : begin + piece] = brute_force_mask(piece, pattern, causal)
            starts[row, begin : begin + piece] = begin
            begin += piece
    shape = AttentionPattern(
        pattern.get("sliding_window"),
        pattern.get("global_tokens", 0),
        pattern.get("sparse_block"),
        pattern.get("sparse_stride", 8),
    )
    results = []
    for mixed in (
        explicit_attention(*leaves, mask=mask, causal=False, dropout=0.0),
        patterned_attention.patterned_attention(*leaves, shape, causal=causal, starts=starts if documents else None),
    ):
        direction = torch.linspace(-1, 1, mixed.numel()).view(mixed.shape)
        results.append([mixed, *torch.autograd.grad(mixed, leaves, direction)])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_kernel_is_an_operator_that_the_compiler_can_trust() -> None:
    query, key, value = (torch.randn(1, heads, 40, 8, requires_grad=True) for heads in (4, 2, 2))
    starts = torch.tensor([[0] * 15 + [15] * 25])
    torch.library.opcheck(patterned_attention._forward, (query, key, value, starts, [6, 0, 0, 8], True))


@pytest.mark.parametrize("pattern", [value for value in PATTERNS.values() if value], ids=list(PATTERNS)[1:])
def test_padding_and_documents_give_what_each_text_gives_alone(pattern: dict[str, Any]) -> None:
    for backend in ("sdpa", "explicit"):
        model, ids = tiny_model(attention_backend=backend, **pattern), token_ids(seq=20)
        alone = [model(ids[:, :9]).logits, model(ids[:, 9:]).logits]
        documents = torch.tensor([1] * 9 + [2] * 11).expand(2, 20)
        positions = torch.cat((torch.arange(9), torch.arange(11))).expand(2, 20)
        packed = model(ids, position_ids=positions, document_ids=documents).logits
        torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)
        padded = torch.cat((ids.new_zeros(2, 4), ids[:, :9]), dim=1)
        mask = torch.tensor([0] * 4 + [1] * 9).expand(2, 13)
        torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 4:], alone[0], atol=1e-5, rtol=1e-5)


def test_documents_of_a_long_row_go_by_blocks_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny_model(), token_ids(seq=24)
    documents = torch.tensor([[1] * 9 + [2] * 15, [1] * 2 + [2] * 3 + [1] * 19])
    expected = model(ids, document_ids=documents, labels=ids)
    calls = []
    real = attention.patterned_attention
    monkeypatch.setattr(context, "DOCUMENTS_BY_BLOCKS", 24)
    monkeypatch.setattr(attention, "patterned_attention", lambda *a, **o: calls.append(1) or real(*a, **o))
    got = model(ids, document_ids=documents, labels=ids)
    assert len(calls) == 2
    torch.testing.assert_close(got.logits, expected.logits, atol=1e-5, rtol=1e-5)
    # The third run of row 1 has the id of the first, and is another document all the same.
    changed = ids.clone()
    changed[1, 0] = (ids[1, 0] + 1) % 61
    assert torch.equal(model(changed, document_ids=documents).logits[1, 5:], got.logits[1, 5:])


@pytest.mark.covers("R133", "R153", "R154", "R155")
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=list(PATTERNS))
@torch.no_grad()
def test_a_changed_token_changes_only_what_may_see_it(pattern: dict[str, Any]) -> None:
    """In one layer, and for every token: exactly the queries of the brute-force rules, and none in the past."""
    model = tiny_model(n_layers=1, **pattern)
    ids = token_ids(batch=1, seq=14)
    before = model(ids).logits[0]
    for key in range(14):
        changed = ids.clone()
        changed[0, key] = (ids[0, key] + 7) % 61
        moved = (model(changed).logits[0] - before).abs().amax(dim=-1) > 1e-6
        assert moved.tolist() == [sees(query, key, pattern) for query in range(14)]


def test_an_encoders_window_and_global_tokens_look_both_ways() -> None:
    config = tiny_config(sliding_window=2, global_tokens=1)
    layer = MultiHeadAttention(config).eval()
    x = torch.randn(1, 9, 32)

    def attend(x: Tensor) -> Tensor:
        rules = {"document_ids": None, "attention_mask": None, "cache": None, "rotary": None, "slopes": None}
        context = build_context(9, None, dtype=x.dtype, device=x.device, causal=False, **rules)  # type: ignore[arg-type]
        return layer(x, context)[0]

    before = attend(x)
    for key in range(9):
        changed = x.clone()
        changed[0, key] += 1
        moved = ((attend(changed) - before).abs().amax(dim=-1) > 1e-6).tolist()
        assert moved == [q == 0 or key == 0 or abs(q - key) <= 1 for q in range(9)]


def test_some_layers_may_see_everything() -> None:
    every = tiny_config(n_layers=6, sliding_window=4, full_attention_every=3)
    assert [every.sees_everything(layer) for layer in range(6)] == [False, False, True] * 2
    chosen = tiny_config(n_layers=3, sliding_window=4, full_attention_layers=[0])
    assert [layer_pattern(chosen, layer) is None for layer in range(3)] == [True, False, False]
    model = tiny_model(n_layers=2, sliding_window=2, full_attention_layers=[1])
    ids = token_ids(batch=1, seq=12)
    changed = ids.clone()
    changed[0, 0] += 1
    assert not torch.allclose(model(ids).logits[0, 11], model(changed).logits[0, 11], atol=1e-6)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"sliding_window": 4, "sparse_block": 4}, "two patterns"),
        ({"global_tokens": 2}, "global_tokens does nothing without"),
        ({"full_attention_every": 2}, "full_attention_every does nothing without"),
        ({"sliding_window": 4, "full_attention_every": 2, "full_attention_layers": [0]}, "both choose layers"),
        ({"sliding_window": 4, "full_attention_layers": [5]}, "there is no layer 5; they go from 0 to 1"),
        ({"sliding_window": 4, "full_attention_every": 1}, "every layer is exempt"),
        ({"attention_backend": "flex", "attn_dropout": 0.1}, "flex has no dropout"),
    ],
)
def test_contradictions_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**values)


def test_a_context_with_a_mask_of_its_own_is_narrowed_by_the_pattern() -> None:
    layer = MultiHeadAttention(tiny_config(sliding_window=3)).eval()
    x = torch.randn(1, 10, 32)
    given = AttentionContext(causal=False, mask=brute_force_mask(10, {}))
    torch.testing.assert_close(layer(x, given), layer(x), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.covers("R154")
def test_sparse_attention_costs_less_at_4096_tokens() -> None:
    """Measured side by side on one thread; the ratios were 0.2, so 0.6 leaves room for a busy machine."""
    from benchmarks.attention_patterns import measure

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = measure(4096, torch.device("cpu"))["patterns"]
    finally:
        torch.set_num_threads(threads)
    for name in ("window 256", "window 256 + 16 global", "blocks of 64, every 8th"):
        assert found[name]["ratio"] < 0.6


def test_flex_says_that_it_cannot_train_on_a_cpu() -> None:
    from llm_trainer.common.errors import UserError

    with pytest.raises(UserError, match="no gradients on a CPU"):
        tiny_model(attention_backend="flex")(token_ids())


@pytest.mark.slow
@torch.no_grad()
def test_compiled_flex_attention_equals_the_default() -> None:
    model, ids = tiny_model(sliding_window=40, max_seq_len=160, n_kv_heads=2, d_head=16), token_ids(seq=160)
    logits = twin(model, attention_backend="flex")(ids).logits
    torch.testing.assert_close(logits, model(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_config_knows_its_pattern() -> None:
    assert layer_pattern(ModelConfig(), 0) is None
    assert AttentionPattern(window=256).keys_per_query(4096) == 256
    assert AttentionPattern(window=256, global_tokens=16).keys_per_query(4096) == 272
    assert AttentionPattern(block=64, stride=8).keys_per_query(4096) == 640
    assert AttentionPattern(window=256).keys_per_query(100) == 100


@pytest.mark.parametrize(
    "pattern", [{"sliding_window": 3, "global_tokens": 2}, {"sparse_block": 2, "sparse_stride": 3}]
)
def test_padding_before_a_document_does_not_move_its_places(pattern: dict[str, Any]) -> None:
    model = enlivened(tiny_model(**pattern))
    first, second = token_ids(batch=1, seq=11), token_ids(batch=1, seq=10, seed=3)
    filler = torch.zeros(1, 3, dtype=torch.int64)
    # The padding is of the first document, as where someone counts documents by their end tokens.
    mask = torch.tensor([[0] * 3 + [1] * 21])
    documents = torch.tensor([[1] * 14 + [2] * 10])
    positions = torch.cat([torch.zeros(3), torch.arange(11), torch.arange(10)]).long()[None]
    with torch.no_grad():
        row = model(
            torch.cat([filler, first, second], dim=1),
            attention_mask=mask,
            document_ids=documents,
            position_ids=positions,
        ).logits
        torch.testing.assert_close(row[:, 3:14], model(first).logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(row[:, 14:], model(second).logits, atol=1e-5, rtol=1e-5)
