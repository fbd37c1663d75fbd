"""Llama, Mistral, Qwen2 and Qwen3. Our names differ, the numbers do not: rotary positions have the same layout, so it
is a rename."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.config.model import Activation
from llm_trainer.models.interop.layout import TensorSource, needed_value, refuse, require_shape
from llm_trainer.models.interop.rope import FIELDS as ROPE_FIELDS
from llm_trainer.models.interop.rope import rope_from_hf, rope_to_hf

GATED_ACTIVATIONS: dict[Activation, str] = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_pytorch_tanh"}
OUR_ACTIVATIONS: dict[str, Activation] = {
    **{theirs: ours for ours, theirs in GATED_ACTIVATIONS.items()},
    "swish": "swiglu",
    "gelu_new": "geglu_tanh",
}
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
# Written under our keys and read back from their names.
SPOKEN = (
    *("vocab_size", "d_model", "d_head", "d_ff", "n_heads", "n_kv_heads", "n_layers", "max_seq_len"),
    *("norm_eps", "tie_embeddings", *ROPE_FIELDS),
)


@dataclass(frozen=True)
class Variant:
    """What tells these families apart."""

    model_type: str
    title: str
    """As people write it, and as its classes are called: ``TITLEForCausalLM``."""
    qk_norm: bool = False
    """Queries and keys are normalised per head."""
    biases: bool = False
    """All biases can be on; they are together, for one switch of ours stands for all of them."""
    qkv_bias: bool = False
    """Queries, keys and values have biases, and nothing else does."""
    window: str = "none"
    """Sliding window: ``none``, ``always`` (in all layers), ``optional`` (in all or none) or ``possible`` (in any)."""


LLAMA = Variant("llama", "Llama", biases=True)
MISTRAL = Variant("mistral", "Mistral", window="always")
QWEN2 = Variant("qwen2", "Qwen2", qkv_bias=True, window="possible")
QWEN3 = Variant("qwen3", "Qwen3", qk_norm=True, window="possible")
WINDOW_FIELDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "always": ("sliding_window",),
    "optional": ("sliding_window",),
    "possible": ("sliding_window", "full_attention_every", "full_attention_layers"),
}


class LlamaLayout:
    """``LlamaForCausalLM`` and its relatives.

    Args:
        variant: which of them.
    """

    family = "decoder"
    needed: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Further fields -> the values that the family has."""
    spoken: ClassVar[tuple[str, ...]] = ()
    """Further fields that are written whatever their value."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant

    def resembles(self, config: ModelConfig) -> bool:
        """Whether a model of this shape has what sets the variant apart."""
        variant = self.variant
        if variant.qk_norm or variant.qkv_bias:
            return config.qk_norm == variant.qk_norm and (not variant.qkv_bias or _qkv_bias_alone(config))
        return variant.window != "always" or config.sliding_window is not None

    def export_problems(self, config: ModelConfig) -> list[str]:
        """Why a model of this shape is no Llama, Mistral, Qwen2 or Qwen3."""
        variant = self.variant
        needed: dict[str, tuple[Any, ...]] = {
            "position": ("rope",),
            "norm": ("rmsnorm",),
            "pre_norm": (True,),
            "activation": tuple(GATED_ACTIVATIONS),
            "attention": ("mha",),
            "feed_forward": ("mlp",),
            "block": ("transformer",),
            "qk_norm": (variant.qk_norm,),
            "bias": (False, True) if variant.biases else (False,),
            **self.needed,
        }
        problems = require_shape(
            config, variant.title, needed, (*SPOKEN, "qkv_bias", *WINDOW_FIELDS[variant.window], *self.spoken)
        )
        if not variant.qkv_bias and config.has_qkv_bias != config.bias:
            problems.append(f"qkv_bias={config.qkv_bias!r}: {variant.title} has it only as bias={config.bias}")
        if variant.qkv_bias and not config.has_qkv_bias:
            problems.append(f"qkv_bias={config.qkv_bias!r}: {variant.title} has only True")
        if variant.window == "always" and config.sliding_window is None:
            problems.append(f"sliding_window=None: {variant.title} has one")
        return problems

    def config_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The content of ``config.json``."""
        variant = self.variant
        values: dict[str, Any] = {"model_type": variant.model_type, "architectures": [f"{variant.title}ForCausalLM"]}
        if variant.biases:
            values |= {"attention_bias": config.bias, "mlp_bias": config.bias}
        if variant.qk_norm:
            values["attention_bias"] = False
        return {
            **values,
            **self._window_to_hf(config),
            "vocab_size": config.vocab_size,
            "hidden_size": config.d_model,
            "intermediate_size": config.ffn_dim,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "hidden_act": GATED_ACTIVATIONS[config.activation],
            "rms_norm_eps": config.norm_eps,
            **rope_to_hf(config),
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
        family = self.variant.title
        width, heads = needed_value(values, "hidden_size", family), needed_value(values, "num_attention_heads", family)
        bias = self.variant.biases and bool(values.get("attention_bias", False))
        refuse(
            {"mlp_bias": False, **values},
            family,
            {
                "hidden_act": tuple(OUR_ACTIVATIONS),
                "pretraining_tp": (1, None),
                # One switch of ours stands for all biases; Qwen3 has none in its feed-forward network.
                "attention_bias": (bias, None),
                "mlp_bias": (bias, None),
            },
        )
        head = values.get("head_dim")
        return ModelConfig(
            **self.own_fields(values),
            vocab_size=needed_value(values, "vocab_size", family),
            d_model=width,
            n_heads=heads,
            n_kv_heads=values.get("num_key_value_heads"),
            d_head=None if head == width / heads else head,
            n_layers=needed_value(values, "num_hidden_layers", family),
            d_ff=needed_value(values, "intermediate_size", family),
            activation=OUR_ACTIVATIONS[values.get("hidden_act", "silu")],
            norm="rmsnorm",
            norm_eps=values.get("rms_norm_eps", 1e-6),
            position="rope",
            **rope_from_hf(values, family),
            **self._window_from_hf(values),
            resid_dropout=values.get("resid_pdrop", 0.0),
            embd_dropout=values.get("embd_pdrop", 0.0),
            attn_dropout=values.get("attention_dropout", 0.0),
            bias=bias,
            qkv_bias=True if self.variant.qkv_bias else None,
            tie_embeddings=values.get("tie_word_embeddings", False),
            qk_norm=self.variant.qk_norm,
            init_std=values.get("initializer_range", 0.02),
        )

    def own_fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of ours, from ``config.json``, that only a relative of Llama has."""
        return {}

    def _window_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        if self.variant.window == "none":
            return {}
        if self.variant.window == "always":
            return {"sliding_window": config.sliding_window}
        if self.variant.window == "optional":
            has_window = config.sliding_window is not None
            return {"sliding_window": config.sliding_window, "use_sliding_window": has_window}
        windowed = [index for index in range(config.n_layers) if not config.sees_everything(index)]
        kinds = ["sliding_attention" if index in windowed else "full_attention" for index in range(config.n_layers)]
        return {
            "use_sliding_window": bool(windowed),
            "sliding_window": config.sliding_window if windowed else None,
            # Before there were layer_types, all layers from this one on had the window.
            "max_window_layers": windowed[0] if windowed else config.n_layers,
            "layer_types": kinds,
        }

    def _window_from_hf(self, values: Mapping[str, Any]) -> dict[str, Any]:
        window, layers = values.get("sliding_window"), needed_value(values, "num_hidden_layers", self.variant.title)
        if self.variant.window == "none" or not window:
            return {}
        if self.variant.window == "always":
            return {"sliding_window": window}
        # Of those that have the switch, Mixtral alone does without it.
        if not values.get("use_sliding_window", self.variant.model_type == "mixtral"):
            return {}
        if self.variant.window == "optional":
            return {"sliding_window": window}
        first = min(max(values.get("max_window_layers", layers), 0), layers)
        kinds = values.get("layer_types") or ["full_attention"] * first + ["sliding_attention"] * (layers - first)
        strange = sorted(set(kinds) - {"full_attention", "sliding_attention"})
        if strange or len(kinds) != layers:
            raise ConfigError(
                [f"layer_types={kinds!r} is not supported: one of full_attention, sliding_attention for each layer is"],
                source=f"the configuration of this {self.variant.title} model",
            )
        full = [index for index, kind in enumerate(kinds) if kind == "full_attention"]
        return {} if len(full) == layers else {"sliding_window": window, "full_attention_layers": full or None}

    def tensors_to_hf(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renamed; a tied output layer is left out, as transformers does."""
        return {
            hf_name(name): tensor
            for name, tensor in tensors.items()
            if not (config.tie_embeddings and name == "lm_head.weight")
        }

    def tensors_from_hf(self, config: ModelConfig, names: Iterable[str], source: TensorSource) -> dict[str, Tensor]:
        """Renamed; a tied output layer is not looked for."""
        return {
            name: source.take("model.embed_tokens.weight" if _is_tied_head(config, name) else hf_name(name))
            for name in names
        }


def hf_name(name: str) -> str:
    """``blocks.3.attention.q_proj.weight`` -> ``model.layers.3.self_attn.q_proj.weight``."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("blocks."):
        return f"{TOP[module]}.{kind}"
    _, index, part = module.split(".", 2)
    return f"model.layers.{index}.{LAYER[part]}.{kind}"


def _qkv_bias_alone(config: ModelConfig) -> bool:
    return config.has_qkv_bias and not config.bias


def _is_tied_head(config: ModelConfig, name: str) -> bool:
    return config.tie_embeddings and name == "lm_head.weight"
