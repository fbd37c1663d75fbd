"""With the cache and without it, the same logits."""

from __future__ import annotations

import itertools

import pytest
import torch

from llm_trainer.common.errors import UserError
from llm_trainer.models import KVCache, TransformerLM
from tests.models.tiny import POSITIONS, SMALL_MODEL_OPTIONS, enlivened, tiny_config, tiny_model, token_ids

OPTIONS = [
    *({"position": position, "n_kv_heads": heads} for position, heads in itertools.product(POSITIONS, (1, 2, 4))),
    {"pre_norm": False},
    {"norm": "layernorm", "bias": True},
    {"qk_norm": True, "n_kv_heads": 2},
    {"attention_backend": "explicit", "position": "alibi"},
    {"attention_backend": "explicit", "n_kv_heads": 2},
    *({name: value} for name, value in SMALL_MODEL_OPTIONS.items()),
    *({**SMALL_MODEL_OPTIONS, "position": position, "n_kv_heads": 2} for position in POSITIONS),
]


@torch.no_grad()
def logits_by_pieces(model: TransformerLM, ids: torch.Tensor, pieces: list[int], explicit: bool) -> torch.Tensor:
    """Read ``ids`` in pieces of these lengths through one cache."""
    cache, start, parts = KVCache(model.config, ids.shape[0], 32), 0, []
    for length in pieces:
        stop = start + length
        positions = torch.arange(start, stop).expand(ids.shape[0], length) if explicit else None
        parts.append(model(ids[:, start:stop], position_ids=positions, cache=cache).logits)
        start = stop
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_reading_in_pieces_equals_reading_at_once(options: dict, explicit: bool) -> None:
    model, ids = enlivened(tiny_model(**options)), token_ids()
    for pieces in ([5] + [1] * 7, [1, 4, 3, 4], [12]):
        cached = logits_by_pieces(model, ids, pieces, explicit)
        torch.testing.assert_close(cached, model(ids).logits, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_prompts_of_different_lengths_need_no_mask(options: dict) -> None:
    """Padded on the right with garbage, then continued from each row's own end."""
    model = enlivened(tiny_model(**options))
    ids = token_ids(batch=3)
    lengths = torch.tensor([5, 8, 3])
    prompt = ids[:, :8].clone()
    for row, length in enumerate(lengths):
        prompt[row, length:] = 60
    cache = KVCache(model.config, 3, 32)
    first = model(prompt, position_ids=torch.arange(8).expand(3, 8), cache=cache).logits
    for row, length in enumerate(lengths):
        expected = model(ids[row : row + 1, :length]).logits[0]
        torch.testing.assert_close(first[row, :length], expected, atol=5e-6, rtol=1e-5)
    for step in range(4):
        positions = (lengths + step).unsqueeze(1)
        new = model(ids.gather(1, positions), position_ids=positions, cache=cache).logits
        for row in range(3):
            expected = model(ids[row : row + 1, : int(positions[row]) + 1]).logits[0, -1]
            torch.testing.assert_close(new[row, 0], expected, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, SMALL_MODEL_OPTIONS], ids=["plain", "small"])
@torch.no_grad()
def test_rows_can_be_reordered_and_multiplied(options: dict) -> None:
    model, ids = enlivened(tiny_model(**options)), token_ids(batch=2)
    cache = KVCache(model.config, 2, 32)
    model(ids[:, :6], cache=cache)
    rows = torch.tensor([1, 0, 1])
    cache.reorder(rows)
    logits = model(ids[rows, 6:7], cache=cache).logits[:, 0]
    torch.testing.assert_close(logits, model(ids[:, :7]).logits[rows, -1], atol=5e-6, rtol=1e-5)
    # The last row goes two steps back, and on from there.
    positions = torch.tensor([[7], [7], [5]])
    logits = model(ids[rows].gather(1, positions), position_ids=positions, cache=cache).logits[:, 0]
    for row, position in enumerate(positions[:, 0].tolist()):
        expected = model(ids[rows[row], : position + 1].unsqueeze(0)).logits[0, -1]
        torch.testing.assert_close(logits[row], expected, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, SMALL_MODEL_OPTIONS], ids=["plain", "small"])
@torch.no_grad()
def test_a_cache_can_be_read_again_from_the_start(options: dict) -> None:
    """What was there before lies behind the new positions, and is not seen."""
    model, ids = enlivened(tiny_model(**options)), token_ids()
    cache = KVCache(model.config, 2, 32)
    model(token_ids(seed=9, seq=20), cache=cache)
    again = model(ids, position_ids=torch.arange(12).expand(2, 12), cache=cache).logits
    torch.testing.assert_close(again, model(ids).logits, atol=5e-6, rtol=1e-5)
    cache.reset()
    torch.testing.assert_close(model(ids, cache=cache).logits, again, atol=5e-6, rtol=1e-5)


@pytest.mark.covers("R149")
def test_bytes_per_token() -> None:
    config = tiny_config(n_kv_heads=1)
    assert KVCache(config, 1, 4).bytes_per_token == 2 * 2 * 1 * 8 * 4
    assert KVCache(config, 1, 4, dtype=torch.bfloat16).bytes_per_token == 2 * 2 * 1 * 8 * 2
    many, few = KVCache(tiny_config(), 3, 16), KVCache(config, 3, 16)
    assert many.keys.nbytes + many.values.nbytes == 3 * 16 * many.bytes_per_token
    assert many.bytes_per_token == 4 * few.bytes_per_token


@torch.no_grad()
def test_a_narrow_cache_serves_a_model_under_autocast() -> None:
    model, ids = tiny_model(n_kv_heads=2), token_ids()
    with torch.autocast("cpu", torch.bfloat16):
        cache = KVCache(model.config, 2, 32, dtype=torch.bfloat16)
        model(ids[:, :6], cache=cache)
        positions = torch.tensor([[6], [6]])
        narrow = model(ids[:, 6:7], position_ids=positions, cache=cache).logits
    assert (narrow[:, 0].float() - model(ids[:, :7]).logits[:, -1]).abs().max() < 0.3


def test_a_full_cache_and_a_mask_beside_a_cache_are_refused() -> None:
    model, ids = tiny_model(), token_ids()
    with pytest.raises(UserError, match="position 11 does not fit in a cache of 10 positions"):
        model(ids, cache=KVCache(model.config, 2, 10))
    with pytest.raises(UserError, match="goes with position_ids"):
        model(ids, cache=KVCache(model.config, 2), attention_mask=torch.zeros_like(ids))
    long = KVCache(model.config, 2, 100)
    model(token_ids(seq=30), cache=long)
    with pytest.raises(UserError, match="42 tokens are more than the model's max_seq_len of 32"):
        model(ids, cache=long)
