"""What does not go together in the shape of a model, as sentences for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_trainer.config.model import ModelConfig


def contradictions_of(config: ModelConfig) -> Iterable[str]:
    """All of them."""
    if config.d_head is None and config.d_model % config.n_heads:
        yield f"d_model ({config.d_model}) must be a multiple of n_heads ({config.n_heads}), unless d_head is set"
    elif config.position == "rope" and config.head_dim % 2:
        origin = "d_model / n_heads" if config.d_head is None else "d_head"
        yield f"rotary positions need an even head width, but {origin} = {config.head_dim}"
    yield from _expert_contradictions(config)
    yield from _segment_contradictions(config)
    if config.n_heads % config.kv_heads:
        yield f"n_heads ({config.n_heads}) must be a multiple of n_kv_heads ({config.kv_heads})"
    if config.position == "relative" and config.relative_max_distance <= config.relative_buckets // 2:
        yield (
            f"relative_max_distance ({config.relative_max_distance}) must be more than half of relative_buckets "
            f"({config.relative_buckets}): the nearest distances have a bucket each"
        )
    yield from _family_contradictions(config)
    yield from _rope_contradictions(config)
    yield from _pattern_contradictions(config)
    if config.head_init_std is not None and config.tie_embeddings:
        yield (
            f"head_init_std ({config.head_init_std}) is for an output layer of its own, and this one is the token "
            "embedding; set tie_embeddings to false, or use init_std"
        )


def _rope_contradictions(config: ModelConfig) -> Iterable[str]:
    """Stretched positions that are not rotary, or not stretched."""
    if config.rope_scaling is None:
        if config.rope_factor != 1:
            yield f"rope_factor ({config.rope_factor}) does nothing without rope_scaling"
        return
    if config.position != "rope":
        yield f"rope_scaling is for rotary positions, and position is {config.position}"
    if config.rope_scaling in ("ntk", "dynamic") and config.head_dim < 4:
        yield f"rope_scaling {config.rope_scaling} needs heads at least 4 wide; these are {config.head_dim}"
    if config.rope_beta_fast <= config.rope_beta_slow:
        yield f"rope_beta_fast ({config.rope_beta_fast}) must be above rope_beta_slow ({config.rope_beta_slow})"
    if config.rope_high_freq_factor <= config.rope_low_freq_factor:
        yield (
            f"rope_high_freq_factor ({config.rope_high_freq_factor}) must be above rope_low_freq_factor "
            f"({config.rope_low_freq_factor})"
        )


def _pattern_contradictions(config: ModelConfig) -> Iterable[str]:
    """Attention patterns that exclude each other, and settings of a pattern that is not there."""
    if config.sliding_window is not None and config.sparse_block is not None:
        yield "sliding_window and sparse_block are two patterns of attention; choose one"
    if not config.has_attention_pattern:
        for name, off in (("global_tokens", 0), ("full_attention_every", None), ("full_attention_layers", None)):
            if getattr(config, name) != off:
                yield f"{name} does nothing without sliding_window or sparse_block"
    if config.full_attention_every is not None and config.full_attention_layers is not None:
        yield "full_attention_every and full_attention_layers both choose layers; give one of them"
    layers = max(config.n_layers, config.encoder_layers)
    beyond = [layer for layer in config.full_attention_layers or () if not 0 <= layer < layers]
    if beyond:
        yield f"full_attention_layers: there is no layer {beyond[0]}; they go from 0 to {layers - 1}"
    if config.has_attention_pattern and all(config.sees_everything(layer) for layer in range(layers)):
        yield "every layer is exempt from sliding_window or sparse_block; leave some out of full_attention_..."
    if config.attention_backend == "flex":
        if config.attention_dropout:
            yield "attention_backend flex has no dropout on attention weights; set attn_dropout to 0, or use sdpa"
        if config.position == "relative":
            yield "attention_backend flex does not learn a relative position bias; use sdpa"


def _family_contradictions(config: ModelConfig) -> Iterable[str]:
    """Settings of one family in another."""
    if config.n_encoder_layers is not None and config.family != "encoder_decoder":
        yield f"n_encoder_layers is for family encoder_decoder; the blocks of a {config.family} are n_layers"
    if config.family != "encoder":
        for name, off in (("token_types", 0), ("head_transform", False), ("head", "lm"), ("labels", None)):
            if getattr(config, name) != off:
                yield f"{name} is for family encoder, not {config.family}"
    if config.family == "encoder" and (config.head == "lm") != (config.labels is None):
        yield "labels and a head that gives labels (sequence or tokens) go together; give both or neither"
    if config.labels is not None and (len(config.labels) < 2 or len(set(config.labels)) < len(config.labels)):
        yield "labels: expected at least two different names"
    if config.family != "decoder":
        for name, off in (
            ("bigram_embedding", None),
            ("value_embeddings", False),
            ("residual_shortcuts", False),
        ):
            if getattr(config, name) != off:
                yield f"{name} is for family decoder, not {config.family}"
    if config.decoder_start_token_id >= config.vocab_size:
        yield (
            f"decoder_start_token_id ({config.decoder_start_token_id}) is outside the vocabulary of "
            f"{config.vocab_size} tokens"
        )


def _segment_contradictions(config: ModelConfig) -> Iterable[str]:
    """What does not go with reading in segments."""
    if config.segment is None:
        return
    if config.family != "decoder":
        yield f"memory_length and segment_length are for family decoder, not {config.family}"
    if config.position in ("learned", "sinusoidal"):
        yield (
            f"memory_length and segment_length need positions that count by distance, and {config.position} ones do "
            "not; set position to rope, alibi, relative or none"
        )
    if config.block != "transformer":
        yield f"memory_length and segment_length are of block transformer; block {config.block} has no memory"
    if config.segment + config.memory_length > config.max_seq_len:
        yield (
            f"a segment of {config.segment} and a memory of {config.memory_length} tokens are more than max_seq_len "
            f"({config.max_seq_len})"
        )


def _expert_contradictions(config: ModelConfig) -> Iterable[str]:
    """Experts that cannot be chosen, or that nothing would train."""
    if not config.n_experts:
        if config.feed_forward == "moe":
            yield "feed_forward: moe needs experts; set n_experts"
        return
    if config.experts_per_token > config.n_experts:
        yield f"experts_per_token ({config.experts_per_token}) is more than n_experts ({config.n_experts})"
    if config.experts_per_token == 1 and config.normalise_expert_weights:
        yield (
            "normalise_expert_weights makes the weight of a single expert 1 whatever its score, so the router "
            "would never learn; leave it unset, or set experts_per_token to 2 or more"
        )
    if not config.moe_layers:
        yield (
            f"with moe_every ({config.moe_every}) and first_dense_layers ({config.first_dense_layers}) none of the "
            f"{config.n_layers} layers has experts"
        )
