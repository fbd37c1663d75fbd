"""GPT-2, whose matrices are stored the other way round, with queries, keys and values in one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from llm_trainer.config import ModelConfig
from llm_trainer.config.model import Activation
from llm_trainer.models.interop.layout import TensorSource, needed_value, refuse, require_shape

HF_ACTIVATIONS: dict[Activation, str] = {
    "gelu_tanh": "gelu_new",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
}
OUR_ACTIVATIONS: dict[str, Activation] = {
    **{theirs: ours for ours, theirs in HF_ACTIVATIONS.items()},
    "gelu_pytorch_tanh": "gelu_tanh",
    "swish": "silu",
}
TOP = {
    "embed_tokens": "transformer.wte",
    "position_embedding.embedding": "transformer.wpe",
    "final_norm": "transformer.ln_f",
    "lm_head": "lm_head",
}
LAYER = {
    "attention_norm": "ln_1",
    "attention.o_proj": "attn.c_proj",
    "ffn_norm": "ln_2",
    "feed_forward.up_proj": "mlp.c_fc",
    "feed_forward.down_proj": "mlp.c_proj",
}
# GPT-2's Conv1D holds (in, out) where a linear layer holds (out, in).
TRANSPOSED = ("attention.o_proj", "feed_forward.up_proj", "feed_forward.down_proj")
FUSED = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
SPOKEN = ("vocab_size", "d_model", "d_ff", "n_heads", "n_kv_heads", "n_layers", "max_seq_len", "norm_eps")


class GPT2Layout:
    """``GPT2LMHeadModel``."""

    family = "decoder"

    def resembles(self, config: ModelConfig) -> bool:
        """Whether positions are learned, as in no other decoder that we know."""
        return config.position == "learned"

    def export_problems(self, config: ModelConfig) -> list[str]:
        """Why a model of this shape is no GPT-2."""
        problems = require_shape(
            config,
            "GPT-2",
            {
                "position": ("learned",),
                "norm": ("layernorm",),
                "pre_norm": (True,),
                "bias": (True,),
                "activation": tuple(HF_ACTIVATIONS),
                "qk_norm": (False,),
                "attention": ("mha",),
                "feed_forward": ("mlp",),
                "block": ("transformer",),
            },
            # The base of rotary positions is that of none.
            (*SPOKEN, "tie_embeddings", "rope_theta", "d_head", "qkv_bias"),
        )
        if config.head_dim * config.n_heads != config.d_model:
            problems.append(f"d_head={config.d_head}: GPT-2 has only d_model / n_heads")
        if config.has_qkv_bias != config.bias:
            problems.append(f"qkv_bias={config.qkv_bias!r}: GPT-2 has it only as bias={config.bias}")
        if config.kv_heads != config.n_heads:
            problems.append(f"n_kv_heads={config.kv_heads}: GPT-2 has as many as n_heads={config.n_heads}")
        return problems

    def config_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": config.vocab_size,
            "n_positions": config.max_seq_len,
            "n_ctx": config.max_seq_len,
            "n_embd": config.d_model,
            "n_head": config.n_heads,
            "n_layer": config.n_layers,
            "n_inner": config.ffn_dim,
            "activation_function": HF_ACTIVATIONS[config.activation],
            "resid_pdrop": config.residual_dropout,
            "embd_pdrop": config.embedding_dropout,
            "attn_pdrop": config.attention_dropout,
            "layer_norm_epsilon": config.norm_eps,
            "initializer_range": config.init_std,
            "tie_word_embeddings": config.tie_embeddings,
        }

    def config_from_hf(self, values: Mapping[str, Any]) -> ModelConfig:
        """Our configuration.

        Raises:
            ConfigError: an option is set that our models do not have.
        """
        refuse(
            values,
            "GPT-2",
            {
                "activation_function": tuple(OUR_ACTIVATIONS),
                "add_cross_attention": (False,),
                "scale_attn_weights": (True,),
                "scale_attn_by_inverse_layer_idx": (False,),
            },
        )
        return ModelConfig(
            vocab_size=needed_value(values, "vocab_size", "GPT-2"),
            d_model=needed_value(values, "n_embd", "GPT-2"),
            n_heads=needed_value(values, "n_head", "GPT-2"),
            n_layers=needed_value(values, "n_layer", "GPT-2"),
            d_ff=values.get("n_inner"),
            max_seq_len=needed_value(values, "n_positions", "GPT-2"),
            activation=OUR_ACTIVATIONS[values.get("activation_function", "gelu_new")],
            norm="layernorm",
            norm_eps=values.get("layer_norm_epsilon", 1e-5),
            position="learned",
            # transformers' own default, where a file does not say
            resid_dropout=values.get("resid_pdrop", 0.1),
            embd_dropout=values.get("embd_pdrop", 0.1),
            attn_dropout=values.get("attn_pdrop", 0.1),
            bias=True,
            tie_embeddings=values.get("tie_word_embeddings", True),
            init_std=values.get("initializer_range", 0.02),
        )

    def tensors_to_hf(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renamed, transposed and fused; a tied output layer is left out, as transformers does."""
        result: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            layer, part, kind = _split(name)
            if part in FUSED[1:] or (config.tie_embeddings and name == "lm_head.weight"):
                continue
            if part == FUSED[0]:
                # (3 * d_model, d_model), or (3 * d_model,) for the bias
                tensor = torch.cat([tensors[f"blocks.{layer}.{fused}.{kind}"] for fused in FUSED])
                result[f"transformer.h.{layer}.attn.c_attn.{kind}"] = tensor.T if kind == "weight" else tensor
            else:
                result[_hf_name(name)] = tensor.T if part in TRANSPOSED and kind == "weight" else tensor
        return {name: tensor.contiguous() for name, tensor in result.items()}

    def tensors_from_hf(self, config: ModelConfig, names: Iterable[str], source: TensorSource) -> dict[str, Tensor]:
        """Renamed, transposed and taken apart."""
        result: dict[str, Tensor] = {}
        for name in names:
            layer, part, kind = _split(name)
            if config.tie_embeddings and name == "lm_head.weight":
                result[name] = source.take(_known(source, "transformer.wte.weight"))
            elif part in FUSED:
                fused = _known(source, f"transformer.h.{layer}.attn.c_attn.{kind}")
                # (d_model, 3 * d_model), or (3 * d_model,) for the bias
                tensor = source.take_part(fused, FUSED.index(part), 3, dim=1 if kind == "weight" else 0)
                result[name] = tensor.transpose(0, 1) if kind == "weight" else tensor
            else:
                tensor = source.take(_known(source, _hf_name(name)))
                turned = part in TRANSPOSED and kind == "weight" and tensor.ndim == 2
                result[name] = tensor.T if turned else tensor
        return result


def _split(name: str) -> tuple[str, str, str]:
    """``blocks.3.attention.q_proj.weight`` -> ("3", "attention.q_proj", "weight"); outside blocks, layer is empty."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("blocks."):
        return "", module, kind
    _, layer, part = module.split(".", 2)
    return layer, part, kind


def _hf_name(name: str) -> str:
    layer, part, kind = _split(name)
    return f"transformer.h.{layer}.{LAYER[part]}.{kind}" if layer else f"{TOP[part]}.{kind}"


def _known(source: TensorSource, name: str) -> str:
    """The published GPT-2 files were saved from the body alone, without ``transformer.`` before each name."""
    bare = name.removeprefix("transformer.")
    return bare if not source.has(name) and source.has(bare) else name
