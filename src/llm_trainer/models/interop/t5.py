"""T5, both of its layouts: 1.0 (ReLU, output layer tied to the embedding) and 1.1 (gated GELU, untied)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from llm_trainer.config import ModelConfig
from llm_trainer.config.model import Activation
from llm_trainer.models.interop.layout import TensorSource, needed_value, refuse, require_shape

HF_ACTIVATIONS: dict[Activation, str] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "silu": "silu",
    "geglu_tanh": "gated-gelu",  # transformers computes gated-gelu with the approximation
    "swiglu": "gated-silu",
}
OUR_ACTIVATIONS: dict[str, Activation] = {theirs: ours for ours, theirs in HF_ACTIVATIONS.items()}
BLOCK = {
    "attention_norm": "layer.0.layer_norm",
    "attention.q_proj": "layer.0.SelfAttention.q",
    "attention.k_proj": "layer.0.SelfAttention.k",
    "attention.v_proj": "layer.0.SelfAttention.v",
    "attention.o_proj": "layer.0.SelfAttention.o",
}
CROSS = {
    "cross_attention_norm": "layer.1.layer_norm",
    "cross_attention.q_proj": "layer.1.EncDecAttention.q",
    "cross_attention.k_proj": "layer.1.EncDecAttention.k",
    "cross_attention.v_proj": "layer.1.EncDecAttention.v",
    "cross_attention.o_proj": "layer.1.EncDecAttention.o",
}
FEED_FORWARD = {
    "ffn_norm": "layer_norm",
    "feed_forward.down_proj": "DenseReluDense.wo",
}
EMBEDDING = "shared.weight"
# Second names of shared tensors, and a table of cross-attention that old files hold and nobody reads.
UNUSED = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
SPOKEN = (
    *("vocab_size", "d_model", "d_head", "d_ff", "n_heads", "n_layers", "n_encoder_layers", "max_seq_len", "norm_eps"),
    *("relative_buckets", "relative_max_distance", "tie_embeddings", "decoder_start_token_id", "n_kv_heads"),
    # What concerns rotary positions is that of none; without biases, qkv_bias may only say so again.
    *("rope_theta", "qkv_bias", "scale_logits"),
)


class T5Layout:
    """``T5ForConditionalGeneration``."""

    family = "encoder_decoder"

    def resembles(self, config: ModelConfig) -> bool:
        """It is the only encoder-decoder that is written here."""
        return True

    def export_problems(self, config: ModelConfig) -> list[str]:
        """Why a model of this shape is no T5."""
        problems = require_shape(
            config,
            "T5",
            {
                "family": ("encoder_decoder",),
                "position": ("relative",),
                "norm": ("rmsnorm",),
                "pre_norm": (True,),
                "bias": (False,),
                "attention_scale": (1.0,),
                "activation": tuple(HF_ACTIVATIONS),
                "attention": ("mha",),
                "feed_forward": ("mlp",),
                "block": ("transformer",),
            },
            SPOKEN,
        )
        if config.has_qkv_bias:
            problems.append("qkv_bias=True: T5 has only False")
        if config.scale_logits != config.tie_embeddings:
            problems.append(
                f"scale_logits={config.scale_logits}: T5 has it with tied embeddings and only then "
                f"(tie_embeddings={config.tie_embeddings})"
            )
        if config.kv_heads != config.n_heads:
            problems.append(f"n_kv_heads={config.kv_heads}: T5 has as many as n_heads={config.n_heads}")
        return problems

    def config_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {
            "model_type": "t5",
            "architectures": ["T5ForConditionalGeneration"],
            "is_encoder_decoder": True,
            "vocab_size": config.vocab_size,
            "d_model": config.d_model,
            "d_kv": config.head_dim,
            "d_ff": config.ffn_dim,
            "num_layers": config.encoder_layers,
            "num_decoder_layers": config.n_layers,
            "num_heads": config.n_heads,
            "relative_attention_num_buckets": config.relative_buckets,
            "relative_attention_max_distance": config.relative_max_distance,
            "dropout_rate": config.residual_dropout,
            "layer_norm_epsilon": config.norm_eps,
            "feed_forward_proj": HF_ACTIVATIONS[config.activation],
            "tie_word_embeddings": config.tie_embeddings,
            "scale_decoder_outputs": config.scale_logits,
            "decoder_start_token_id": config.decoder_start_token_id,
            # Not options of T5; kept for the way back.
            "n_positions": config.max_seq_len,
            "embd_pdrop": config.embedding_dropout,
            "attn_pdrop": config.attention_dropout,
            "initializer_range": config.init_std,
        }

    def config_from_hf(self, values: Mapping[str, Any]) -> ModelConfig:
        """Our configuration.

        Raises:
            ConfigError: an option is set that our models do not have.
        """
        refuse(
            values,
            "T5",
            {"feed_forward_proj": tuple(OUR_ACTIVATIONS), "is_encoder_decoder": (True, None)},
        )
        # transformers 5 writes tie_word_embeddings: true for both layouts, and tells 1.1 by scale_decoder_outputs.
        tied = values.get("tie_word_embeddings", True) and values.get("scale_decoder_outputs") is not False
        layers = needed_value(values, "num_layers", "T5")
        dropout = values.get("dropout_rate", 0.1)  # transformers' own default, where a file does not say
        start = values.get("decoder_start_token_id")
        if start is None:
            start = values.get("pad_token_id", 0)
        return ModelConfig(
            family="encoder_decoder",
            vocab_size=needed_value(values, "vocab_size", "T5"),
            d_model=needed_value(values, "d_model", "T5"),
            n_heads=needed_value(values, "num_heads", "T5"),
            d_head=needed_value(values, "d_kv", "T5"),
            d_ff=needed_value(values, "d_ff", "T5"),
            n_layers=values.get("num_decoder_layers") or layers,
            n_encoder_layers=layers,
            max_seq_len=values.get("n_positions", 512),
            activation=OUR_ACTIVATIONS[values.get("feed_forward_proj", "relu")],
            norm="rmsnorm",
            norm_eps=values.get("layer_norm_epsilon", 1e-6),
            position="relative",
            relative_buckets=values.get("relative_attention_num_buckets", 32),
            relative_max_distance=values.get("relative_attention_max_distance", 128),
            attention_scale=1.0,
            resid_dropout=dropout,
            embd_dropout=values.get("embd_pdrop", dropout),
            attn_dropout=values.get("attn_pdrop", dropout),
            bias=False,
            tie_embeddings=tied,
            scale_logits=tied,
            decoder_start_token_id=start or 0,
            init_std=values.get("initializer_range", 0.02),
        )

    def tensors_to_hf(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renamed; a tied output layer is left out, as transformers does."""
        return {
            _hf_name(name, config): tensor
            for name, tensor in tensors.items()
            if not (config.tie_embeddings and name == "lm_head.weight")
        }

    def tensors_from_hf(self, config: ModelConfig, names: Iterable[str], source: TensorSource) -> dict[str, Tensor]:
        """Renamed; an output layer that is tied, or was when transformers saved it, is not looked for."""
        tied = config.tie_embeddings or not source.has("lm_head.weight")
        result = {
            name: source.take(EMBEDDING if tied and name == "lm_head.weight" else _hf_name(name, config))
            for name in names
        }
        for name in UNUSED:
            source.skip(name)
        return result


def _hf_name(name: str, config: ModelConfig) -> str:
    """``decoder.blocks.3.attention.q_proj.weight`` -> ``decoder.block.3.layer.0.SelfAttention.q.weight``."""
    module, _, kind = name.rpartition(".")
    if module == "embed_tokens":
        return EMBEDDING
    if module == "lm_head":
        return "lm_head.weight"
    side, part = module.split(".", 1)
    if part == "final_norm":
        return f"{side}.final_layer_norm.{kind}"
    if part == "relative.embedding":
        return f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.{kind}"
    _, index, part = part.split(".", 2)
    return f"{side}.block.{index}.{_part(part, decoder=side == 'decoder', config=config)}.{kind}"


def _part(part: str, *, decoder: bool, config: ModelConfig) -> str:
    """The name of a part within its block; the feed-forward network is the last of two or three sublayers."""
    if part in BLOCK:
        return BLOCK[part]
    if part in CROSS:
        return CROSS[part]
    gated = config.activation in ("geglu_tanh", "swiglu")
    inner = {
        **FEED_FORWARD,
        "feed_forward.gate_proj": "DenseReluDense.wi_0",
        "feed_forward.up_proj": "DenseReluDense.wi_1" if gated else "DenseReluDense.wi",
    }
    return f"layer.{2 if decoder else 1}.{inner[part]}"
