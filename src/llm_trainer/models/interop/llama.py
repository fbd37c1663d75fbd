"""Llama and Qwen3. Our names differ, the numbers do not: rotary positions have the same layout, so it is a rename."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.config.model import Activation
from llm_trainer.models.interop.layout import OURS_ALONE, TensorSource, needed_value, refuse, require_values

GATED_ACTIVATIONS: dict[Activation, str] = {"swiglu": "silu", "geglu": "gelu"}
OUR_ACTIVATIONS: dict[str, Activation] = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu"}
TOP = {"embed_tokens": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head"}
LAYER = {
    "attention_norm": "input_layernorm",
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.gate_proj": "mlp.gate_proj",
    "feed_forward.up_proj": "mlp.up_proj",
    "feed_forward.down_proj": "mlp.down_proj",
}


class LlamaLayout:
    """``LlamaForCausalLM``, or ``Qwen3ForCausalLM``, which normalises queries and keys.

    Args:
        qwen: whether it is the latter.
    """

    def __init__(self, qwen: bool) -> None:
        self.qwen = qwen

    def export_problems(self, config: ModelConfig) -> list[str]:
        """Why a model of this shape is no Llama, or no Qwen3."""
        family = "Qwen3" if self.qwen else "Llama"
        needed: dict[str, tuple[Any, ...]] = {
            "position": ("rope",),
            "norm": ("rmsnorm",),
            "pre_norm": (True,),
            "activation": tuple(GATED_ACTIVATIONS),
            "attention": ("mha",),
            "feed_forward": ("mlp",),
            "block": ("transformer",),
            "qk_norm": (self.qwen,),
            **OURS_ALONE,
        }
        if self.qwen:
            # Qwen3 has an option for biases in attention, but none for the feed-forward network.
            needed["bias"] = (False,)
        return require_values(config, family, needed)

    def config_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The content of ``config.json``."""
        kind = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "use_sliding_window": False}
        if not self.qwen:
            kind = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "mlp_bias": config.bias}
        return {
            **kind,
            "attention_bias": config.bias,
            "vocab_size": config.vocab_size,
            "hidden_size": config.d_model,
            "intermediate_size": config.ffn_dim,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "hidden_act": GATED_ACTIVATIONS[config.activation],
            "max_position_embeddings": config.max_seq_len,
            "rms_norm_eps": config.norm_eps,
            "rope_theta": config.rope_theta,
            "attention_dropout": config.attention_dropout,
            # Not options of Llama; kept for the way back.
            "resid_pdrop": config.residual_dropout,
            "embd_pdrop": config.embedding_dropout,
            "initializer_range": config.init_std,
            "tie_word_embeddings": config.tie_embeddings,
        }

    def config_from_hf(self, values: Mapping[str, Any]) -> ModelConfig:
        """Our configuration.

        Raises:
            ConfigError: an option is set that our models do not have.
        """
        family = "Qwen3" if self.qwen else "Llama"
        width, heads = needed_value(values, "hidden_size", family), needed_value(values, "num_attention_heads", family)
        bias = bool(values.get("attention_bias", False))
        # One switch of ours stands for all biases; Qwen3 has none in its feed-forward network.
        biases = {"attention_bias": (False,)} if self.qwen else {"mlp_bias": (bias,)}
        refuse(
            {"mlp_bias": False, **values},
            family,
            {
                "hidden_act": tuple(OUR_ACTIVATIONS),
                "head_dim": (None, width // heads),
                "use_sliding_window": (False, None),
                "pretraining_tp": (1, None),
                **biases,
            },
        )
        return ModelConfig(
            vocab_size=needed_value(values, "vocab_size", family),
            d_model=width,
            n_heads=heads,
            n_kv_heads=values.get("num_key_value_heads"),
            n_layers=needed_value(values, "num_hidden_layers", family),
            d_ff=needed_value(values, "intermediate_size", family),
            max_seq_len=needed_value(values, "max_position_embeddings", family),
            activation=OUR_ACTIVATIONS[values.get("hidden_act", "silu")],
            norm="rmsnorm",
            norm_eps=values.get("rms_norm_eps", 1e-6),
            position="rope",
            rope_theta=_rope_theta(values, family),
            resid_dropout=values.get("resid_pdrop", 0.0),
            embd_dropout=values.get("embd_pdrop", 0.0),
            attn_dropout=values.get("attention_dropout", 0.0),
            bias=bias,
            tie_embeddings=values.get("tie_word_embeddings", False),
            qk_norm=self.qwen,
            init_std=values.get("initializer_range", 0.02),
        )

    def tensors_to_hf(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renamed; a tied output layer is left out, as transformers does."""
        return {
            _hf_name(name): tensor
            for name, tensor in tensors.items()
            if not (config.tie_embeddings and name == "lm_head.weight")
        }

    def tensors_from_hf(self, config: ModelConfig, names: Iterable[str], source: TensorSource) -> dict[str, Tensor]:
        """Renamed; a tied output layer is not looked for."""
        return {
            name: source.take("model.embed_tokens.weight" if _is_tied_head(config, name) else _hf_name(name))
            for name in names
        }


def _is_tied_head(config: ModelConfig, name: str) -> bool:
    return config.tie_embeddings and name == "lm_head.weight"


def _hf_name(name: str) -> str:
    """``blocks.3.attention.q_proj.weight`` -> ``model.layers.3.self_attn.q_proj.weight``."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("blocks."):
        return f"{TOP[module]}.{kind}"
    _, index, part = module.split(".", 2)
    return f"model.layers.{index}.{LAYER[part]}.{kind}"


def _rope_theta(values: Mapping[str, Any], family: str) -> float:
    """transformers 5 keeps the base in ``rope_parameters``, earlier ones beside ``rope_scaling``."""
    for key in ("rope_parameters", "rope_scaling"):
        rope = values.get(key) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise ConfigError(
                [f"{key}={rope!r} is not supported: only unscaled rotary positions are"],
                source=f"the configuration of this {family} model",
            )
    theta = (values.get("rope_parameters") or {}).get("rope_theta", values.get("rope_theta"))
    return 10000.0 if theta is None else float(theta)
