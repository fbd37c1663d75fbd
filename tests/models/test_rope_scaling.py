"""Rotary positions beyond the length of training. (Equality with transformers is in tests/parity.)"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.models import KVCache, TransformerLM
from llm_trainer.models.embeddings import RotaryEmbedding
from llm_trainer.models.rope_scaling import Scaling, plain_frequencies, rope_scaling
from tests.models.tiny import tiny_config, tiny_model, token_ids

KINDS = ("linear", "ntk", "dynamic", "yarn", "llama3")


@pytest.mark.covers("R408")
def test_ntk_slows_the_slowest_pair_by_the_factor_and_the_fastest_not_at_all() -> None:
    """Fixed NTK-aware scaling is not in transformers: this is its definition."""
    plain, scaled = plain_frequencies(64, 10000.0), Scaling("ntk", 8.0, 512).frequencies(64, 10000.0)
    slowdown = plain / scaled
    assert slowdown[0] == 1
    assert slowdown[-1].item() == pytest.approx(8.0, rel=1e-4)
    assert (slowdown.diff() > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_of_one_changes_nothing(kind: str) -> None:
    scaled = RotaryEmbedding(16, 40, 10000.0, Scaling(kind, 1.0, 40))
    for ours, plain in zip(scaled(40), RotaryEmbedding(16, 40)(40), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_scaled_model_is_whole(kind: str) -> None:
    """Its tables survive the meta device, and the cache changes nothing (dynamic: as far as it was trained)."""
    model = tiny_model(rope_scaling=kind, rope_factor=2.0, rope_original_length=16)
    ids = token_ids(seq=15)
    with torch.device("meta"):
        empty = TransformerLM(model.config)
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(model.state_dict())
    assert torch.equal(filled(ids).logits, model(ids).logits)
    cache = KVCache(model.config, 2)
    parts = [model(ids[:, :9], cache=cache).logits, model(ids[:, 9:], cache=cache).logits]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids).logits, atol=5e-6, rtol=1e-5)
    assert not torch.allclose(tiny_model()(token_ids(seq=30)).logits, model(token_ids(seq=30)).logits, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_given_and_positions_counted_are_the_same(kind: str) -> None:
    model, ids = tiny_model(rope_scaling=kind, rope_factor=2.0), token_ids(seq=30)
    counted = model(ids).logits
    given = model(ids, position_ids=torch.arange(30).expand(2, 30)).logits
    torch.testing.assert_close(given, counted, atol=1e-5, rtol=1e-5)


def test_the_dictionary_of_other_tools_becomes_flat_settings() -> None:
    nested = {"rope_type": "llama3", "factor": 8, "original_max_position_embeddings": 8192, "low_freq_factor": 1}
    config = ModelConfig(max_seq_len=65536, rope_scaling=nested)
    assert (config.rope_scaling, config.rope_factor, config.rope_original_length) == ("llama3", 8.0, 8192)
    assert ModelConfig(**config.to_dict()) == config
    default = ModelConfig.from_dict({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    assert (default.rope_scaling, default.rope_theta) == (None, 5e5)
    assert ModelConfig(rope_scaling={"type": "linear", "factor": 2.0}).rope_scaling == "linear"
    found = rope_scaling(ModelConfig(max_seq_len=1024, rope_scaling="yarn", rope_factor=8.0))
    assert found is not None
    assert found.trained_length == 128


@pytest.mark.parametrize(
    "values, message",
    [
        ({"rope_factor": 2.0}, "rope_factor .2.0. does nothing without rope_scaling"),
        ({"rope_scaling": "yarn", "position": "alibi"}, "for rotary positions, and position is alibi"),
        ({"rope_scaling": "ntk", "d_head": 2}, "heads at least 4 wide; these are 2"),
        ({"rope_scaling": "yarn", "rope_beta_fast": 1.0}, "rope_beta_fast .1.0. must be above rope_beta_slow"),
        ({"rope_scaling": "llama3", "rope_low_freq_factor": 4.0}, "rope_high_freq_factor .4.0. must be above"),
        ({"rope_scaling": {"type": "linear", "mscale": 1.0}}, "rope_scaling.mscale: unknown key; known: rope_type"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_factor": 3.0}, "say different things"),
        ({"rope_scaling": "longrope"}, "rope_scaling: expected"),
    ],
)
def test_contradictions_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**values)


@pytest.mark.covers("R147")
@pytest.mark.parametrize("position", ["alibi", "relative"])
def test_biases_by_distance_read_on_beyond_the_length_of_training(position: str) -> None:
    model = tiny_model(position=position)  # max_seq_len is 32
    logits = model(token_ids(seq=200)).logits
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[:, :30], model(token_ids(seq=200)[:, :30]).logits, atol=1e-5, rtol=1e-5)
