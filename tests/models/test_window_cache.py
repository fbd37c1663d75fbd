"""The cache of a sliding window: the same logits as without it, in a memory that stops growing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_trainer.common.errors import UserError
from llm_trainer.config import GenerationConfig
from llm_trainer.generation.decoder import Decoder
from llm_trainer.models import KVCache, TransformerLM
from tests.models.test_kv_cache import logits_by_pieces
from tests.models.tiny import enlivened, tiny_config, tiny_model, token_ids

OPTIONS: list[dict[str, Any]] = [
    {"sliding_window": 3},
    {"sliding_window": 1},
    {"sliding_window": 3, "n_kv_heads": 2, "position": "alibi"},
    {"sliding_window": 3, "n_kv_heads": 1, "position": "learned"},
    {"sliding_window": 3, "position": "relative"},
    {"sliding_window": 3, "global_tokens": 2},
    {"sliding_window": 4, "n_layers": 3, "full_attention_every": 2},
    {"sliding_window": 100},
    {"sliding_window": 3, "attention_backend": "explicit"},
    {"sparse_block": 2, "sparse_stride": 3},
    {"sliding_window": 3, "bigram_embedding": 97, "value_embeddings": True},
]
CLOSE = {"atol": 5e-6, "rtol": 1e-5}


@pytest.mark.covers("R153", "R380")
@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_reading_in_pieces_equals_reading_at_once(options: dict[str, Any], explicit: bool) -> None:
    model, ids = enlivened(tiny_model(**options)), token_ids(seq=14)
    for pieces in ([8] + [1] * 6, [1] * 14, [1, 4, 3, 1, 5], [2, 1, 1, 6, 4], [14]):
        cached = logits_by_pieces(model, ids, pieces, explicit)
        torch.testing.assert_close(cached, model(ids).logits, **CLOSE)


@pytest.mark.covers("R153")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_prompts_of_different_lengths_need_no_mask(options: dict[str, Any]) -> None:
    """Padded on the right with garbage, longer than the window, then continued from each row's own end."""
    model = enlivened(tiny_model(**options))
    ids = token_ids(batch=4, seq=16)
    lengths = torch.tensor([5, 9, 1, 3])
    prompt = ids[:, :9].clone()
    for row, length in enumerate(lengths):
        prompt[row, length:] = 60
    cache = KVCache(model.config, 4, 32)
    model(prompt, position_ids=torch.arange(9).expand(4, 9), cache=cache)
    for step in range(6):
        positions = (lengths + step).unsqueeze(1)
        new = model(ids.gather(1, positions), position_ids=positions, cache=cache).logits
        for row in range(4):
            expected = model(ids[row : row + 1, : int(positions[row]) + 1]).logits[0, -1]
            torch.testing.assert_close(new[row, 0], expected, **CLOSE)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_rows_can_be_reordered_and_multiplied_at_any_time(options: dict[str, Any]) -> None:
    model, ids = enlivened(tiny_model(**options)), token_ids(batch=2, seq=12)
    for before in ([7], [4, 1, 1, 1], [3, 4]):
        cache = KVCache(model.config, 2, 32)
        start = 0
        for length in before:
            model(ids[:, start : start + length], cache=cache)
            start += length
        rows = torch.tensor([1, 0, 1])
        cache.reorder(rows)
        for step in range(7, 10):
            logits = model(ids[rows, step : step + 1], cache=cache).logits[:, 0]
            torch.testing.assert_close(logits, model(ids[:, : step + 1]).logits[rows, -1], **CLOSE)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_a_draft_can_be_taken_back(options: dict[str, Any]) -> None:
    """Five tokens are tried, and each row keeps as many of them as it likes: speculative decoding."""
    model, ids = enlivened(tiny_model(**options)), token_ids(batch=2, seq=14)
    cache = KVCache(model.config, 2, 32)
    model(ids[:, :5], cache=cache)
    draft = ids[:, 5:10].clone()
    draft[0, 2:], draft[1, 4:] = 3, 3  # row 0 keeps two of them, row 1 four
    model(draft, position_ids=torch.arange(5, 10).expand(2, 5), cache=cache)
    ends = torch.tensor([7, 9])
    for step in range(3):
        positions = (ends + step).unsqueeze(1)
        new = model(ids.gather(1, positions), position_ids=positions, cache=cache).logits
        for row in range(2):
            expected = model(ids[row : row + 1, : int(positions[row]) + 1]).logits[0, -1]
            torch.testing.assert_close(new[row, 0], expected, **CLOSE)


@torch.no_grad()
def test_going_back_behind_the_window_is_refused_and_reading_anew_is_not() -> None:
    model, ids = tiny_model(sliding_window=3), token_ids(batch=2, seq=12)
    cache = KVCache(model.config, 2, 32)
    model(ids[:, :6], cache=cache)
    model(ids[:, 6:7], cache=cache)
    model(ids[:, 7:8], cache=cache)
    again = model(ids[:, 7:8], position_ids=torch.tensor([[7], [7]]), cache=cache).logits
    torch.testing.assert_close(again[:, 0], model(ids[:, :8]).logits[:, -1], **CLOSE)
    with pytest.raises(UserError, match="row 1 goes back to position 5, but its window has moved on to position 7"):
        model(ids[:, :1], position_ids=torch.tensor([[8], [5]]), cache=cache)
    with pytest.raises(UserError, match="consecutive positions"):
        model(ids[:, :2], position_ids=torch.tensor([[8, 10], [8, 9]]), cache=cache)
    from_start = model(ids, position_ids=torch.arange(12).expand(2, 12), cache=cache).logits
    torch.testing.assert_close(from_start, model(ids).logits, **CLOSE)


@pytest.mark.covers("R153")
@torch.no_grad()
def test_the_memory_stops_growing_at_the_window() -> None:
    """Two layers; only one that sees everything needs a slot for every token."""
    one = 2 * 4 * 8 * 4  # keys and values, heads, head_dim, bytes
    windowed = KVCache(tiny_config(sliding_window=8), 1, 4096)
    assert windowed.nbytes == 2 * one * 8
    assert windowed.bytes_per_token == 0
    mixed = KVCache(tiny_config(sliding_window=8, full_attention_every=2), 1, 4096)
    assert mixed.nbytes == one * 8 + one * 4096
    assert KVCache(tiny_config(sliding_window=8, global_tokens=3), 1, 4096).nbytes == 2 * one * 11
    assert KVCache(tiny_config(), 1, 4096).nbytes == 2 * one * 4096
    model = tiny_model(sliding_window=8, position="alibi")
    cache = KVCache(model.config, 1, 400)
    model(token_ids(batch=1, seq=50), cache=cache)
    sizes = []
    for _ in range(40):
        model(token_ids(batch=1, seq=1), cache=cache)
        sizes.append(cache.nbytes)
    assert set(sizes) == {2 * one * 8}  # the prompt's own keys are gone at the first token after it


@torch.no_grad()
def test_generation_past_the_window_equals_generation_without_a_cache() -> None:
    """Prompts of different lengths, several copies of each, and a context that overflows on the way."""

    def tokens(model: TransformerLM, use_cache: bool) -> list[list[int]]:
        decoder = Decoder(model, [[1, 2, 3, 4, 5, 6, 7], [8, 9]], 40, copies=2, use_cache=use_cache)
        chosen = []
        for _ in range(40):
            new = decoder.next_logits().argmax(dim=-1)
            decoder.append(new)
            chosen.append(new.tolist())
        return chosen

    assert GenerationConfig().use_cache
    for options in ({"sliding_window": 5}, {"sliding_window": 5, "full_attention_every": 2, "global_tokens": 1}):
        model = enlivened(tiny_model(**options))
        assert tokens(model, True) == tokens(model, False)
