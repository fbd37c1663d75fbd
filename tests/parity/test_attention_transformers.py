"""Positions and windows: the numbers of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_trainer.config import ModelConfig
from llm_trainer.models import TransformerLM
from llm_trainer.models.embeddings import RotaryEmbedding
from llm_trainer.models.relative_positions import RelativePositionBias, relative_buckets
from llm_trainer.models.rope_scaling import rope_scaling
from tests.models.tiny import enlivened, token_ids

transformers = pytest.importorskip("transformers")

SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 128},
    {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 2048, "beta_fast": 20.0, "beta_slow": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "attention_factor": 1.25},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
]


@pytest.mark.covers("R408")
@pytest.mark.parametrize("head_dim, theta", [(16, 10000.0), (64, 10000.0), (128, 500000.0)])
@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda value: f"{value['rope_type']}-{value['factor']}")
def test_scaled_frequencies_are_those_of_transformers(scaling: dict[str, Any], head_dim: int, theta: float) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    original = scaling.get("original_max_position_embeddings", 512)
    dynamic = scaling["rope_type"] == "dynamic"
    theirs = transformers.LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=original if dynamic else int(original * scaling["factor"]),
        rope_parameters={**scaling, "rope_theta": theta},
    )
    ours = rope_scaling(
        ModelConfig(
            d_model=2 * head_dim,
            n_heads=2,
            max_seq_len=int(original * scaling["factor"]),
            rope_theta=theta,
            rope_scaling=dict(scaling),
        )
    )
    assert ours is not None
    assert ours.trained_length == original
    for length in (None, 100, 1000, 2048) if dynamic else (None,):
        expected, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs, torch.device("cpu"), seq_len=length)
        torch.testing.assert_close(ours.frequencies(head_dim, theta, length), expected, rtol=1e-5, atol=0)
        assert ours.attention_factor == pytest.approx(factor, rel=1e-12)


def _twins(theirs: Any, **values: Any) -> TransformerLM:
    """Our model of the same shape, with the weights of theirs."""
    names = {
        "self_attn.": "attention.",
        "mlp.": "feed_forward.",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.layers.": "blocks.",
        "model.norm": "final_norm",
        "model.": "",
    }
    config = theirs.config
    model = TransformerLM(
        ModelConfig(
            vocab_size=config.vocab_size,
            d_model=config.hidden_size,
            n_heads=config.num_attention_heads,
            n_kv_heads=config.num_key_value_heads,
            n_layers=config.num_hidden_layers,
            d_ff=config.intermediate_size,
            norm_eps=config.rms_norm_eps,
            tie_embeddings=False,
            **{"max_seq_len": config.max_position_embeddings, **values},
        )
    ).eval()
    state = {}
    for name, tensor in theirs.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = tensor
    model.load_state_dict(state)
    return model


SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "attn_implementation": "eager",
}


@pytest.mark.covers("R153")
@torch.no_grad()
def test_a_sliding_window_is_that_of_mistral() -> None:
    torch.manual_seed(0)
    theirs = transformers.MistralForCausalLM(
        transformers.MistralConfig(**SMALL, sliding_window=5, max_position_embeddings=64)
    ).eval()
    ours, ids = _twins(theirs, sliding_window=5), token_ids(seq=20)
    expected = theirs(ids).logits
    torch.testing.assert_close(ours(ids).logits, expected, atol=1e-5, rtol=1e-5)
    for window in (4, 6):
        assert (_twins(theirs, sliding_window=window)(ids).logits - expected).abs().max() > 1e-3
    padded = torch.cat((ids.new_zeros(2, 3), ids), dim=1)
    mask = torch.tensor([0] * 3 + [1] * 20).expand(2, 23)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    theirs_padded = theirs(padded, attention_mask=mask, position_ids=places).logits[:, 3:]
    torch.testing.assert_close(ours(padded, attention_mask=mask).logits[:, 3:], theirs_padded, atol=1e-5, rtol=1e-5)


@pytest.mark.covers("R408")
@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda value: f"{value['rope_type']}-{value['factor']}")
@torch.no_grad()
def test_a_llama_with_scaled_positions_gives_the_same_logits(scaling: dict[str, Any]) -> None:
    """64 tokens where training had 32: the dynamic kind is on its own angles then."""
    torch.manual_seed(0)
    scaling = {**scaling, "rope_theta": 10000.0}
    if "original_max_position_embeddings" in scaling:
        scaling["original_max_position_embeddings"] = 32
    dynamic = scaling["rope_type"] == "dynamic"
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SMALL, max_position_embeddings=32 if dynamic else 128, rope_parameters=scaling)
    ).eval()
    ours = _twins(theirs, max_seq_len=128, rope_scaling=scaling)
    for seq in (20, 64):
        ids = token_ids(seq=seq)
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("buckets, max_distance", [(32, 128), (8, 20), (6, 11)])
def test_relative_buckets_are_those_of_t5(buckets: int, max_distance: int, bidirectional: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-500, 501)
    expected = T5Attention._relative_position_bucket(distance, bidirectional, buckets, max_distance)
    assert torch.equal(relative_buckets(distance, buckets, max_distance, bidirectional=bidirectional), expected)


def test_the_relative_bias_is_that_of_t5() -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    config = transformers.T5Config(d_model=32, d_kv=8, num_heads=4, relative_attention_num_buckets=8)
    theirs = T5Attention(config, has_relative_attention_bias=True)
    ours = RelativePositionBias(4, 8, config.relative_attention_max_distance, bidirectional=True)
    ours.embedding.load_state_dict(theirs.relative_attention_bias.state_dict())
    positions = torch.arange(50).unsqueeze(0)
    torch.testing.assert_close(ours(positions, positions), theirs.compute_bias(50, 50))


@torch.no_grad()
def test_dynamic_positions_and_a_cache_exclude_each_other_only_beyond_the_trained_length() -> None:
    from llm_trainer.common.errors import UserError
    from llm_trainer.models import KVCache
    from tests.models.tiny import tiny_model

    model = enlivened(tiny_model(rope_scaling="dynamic", rope_factor=4.0))  # trained on 8 of 32 tokens
    ids = token_ids(seq=12)
    cache = KVCache(model.config, 2)
    torch.testing.assert_close(model(ids[:, :8], cache=cache).logits, model(ids[:, :8]).logits)
    with pytest.raises(UserError, match="beyond 8 tokens, rope_scaling dynamic turns all earlier tokens"):
        model(ids[:, 8:9], cache=cache)
    plain = RotaryEmbedding(8, 32)
    assert torch.equal(model.rotary(8)[0], plain(8)[0])
    assert not torch.equal(model.rotary(12)[0], plain(12)[0])
