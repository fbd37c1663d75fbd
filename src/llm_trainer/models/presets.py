"""Well-known shapes by name, with the number of parameters that each must have."""

from __future__ import annotations

import difflib
from typing import Any

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig

_GPT2: dict[str, Any] = {
    "vocab_size": 50257,
    "max_seq_len": 1024,
    "activation": "gelu_tanh",
    "norm": "layernorm",
    "position": "learned",
    "bias": True,
    "tie_embeddings": True,
}
_LLAMA: dict[str, Any] = {"vocab_size": 32000, "activation": "swiglu", "norm": "rmsnorm", "position": "rope"}
_NANO: dict[str, Any] = {
    "vocab_size": 8192,
    "d_model": 256,
    "n_heads": 4,
    "n_layers": 4,
    "max_seq_len": 512,
    "norm": "rmsnorm",
    "position": "rope",
    "qk_norm": True,
    "zero_init_projections": True,
}

_BERT: dict[str, Any] = {
    "family": "encoder",
    "vocab_size": 30522,
    "max_seq_len": 512,
    "position": "learned",
    "norm": "layernorm",
    "norm_eps": 1e-12,
    "pre_norm": False,
    "embedding_norm": True,
    "bias": True,
    "activation": "gelu",
    "token_types": 2,
    "head_transform": True,
    "dropout": 0.1,
}
_T5: dict[str, Any] = {
    "family": "encoder_decoder",
    "vocab_size": 32128,
    "max_seq_len": 512,
    "d_head": 64,
    "position": "relative",
    "norm": "rmsnorm",
    "norm_eps": 1e-6,
    "attention_scale": 1.0,
    "dropout": 0.1,
}

PRESETS: dict[str, dict[str, Any]] = {
    # What published speed runs found to help small models (https://github.com/KellerJordan/modded-nanogpt,
    # https://github.com/karpathy/nanochat), all at once; 19,926,120 parameters, most of them in tables
    # that cost no arithmetic. No layout of transformers can hold it.
    "nano": {
        **_NANO,
        "activation": "relu2",
        "tie_embeddings": False,
        "head_init_std": 0.001,
        "embedding_norm": True,
        "residual_shortcuts": True,
        "value_embeddings": True,
        # The power of two next to the published five rows a token.
        "bigram_embedding": 32768,
        "logit_softcap": 15.0,
    },
    # The same size with nothing that Qwen3's layout lacks, for what is to be used elsewhere; 5,311,232 parameters.
    "qwen3_nano": {**_NANO, "activation": "swiglu", "tie_embeddings": True},
    # The same width and depth in Mistral's layout: a sliding window, grouped queries; 5,048,576 parameters.
    "mistral_nano": {
        **_NANO,
        "activation": "swiglu",
        "tie_embeddings": True,
        "qk_norm": False,
        "n_kv_heads": 2,
        "sliding_window": 128,
    },
    # A mixture for a laptop: 9,792,256 parameters, of which a token meets 5,368,576, as many as qwen3_nano has.
    "moe_nano": {**_NANO, "activation": "swiglu", "tie_embeddings": True, "n_experts": 8, "n_shared_experts": 1},
    # Deep and thin, with grouped queries (as in MobileLLM, Liu et al. 2024, https://arxiv.org/abs/2402.14905);
    # 213,366,528 parameters. With use_moe=true, a mixture at the same cost.
    "lightlm": {
        **_LLAMA,
        "d_model": 768,
        "n_heads": 12,
        "n_kv_heads": 4,
        "n_layers": 30,
        "max_seq_len": 1024,
        "tie_embeddings": True,
    },
    # Radford et al. 2019; 124,439,808 parameters (125,226,240 with 2048 positions).
    "gpt2_124m": {**_GPT2, "d_model": 768, "n_heads": 12, "n_layers": 12},
    # GPT-2 medium; 354,823,168 parameters.
    "gpt2_350m": {**_GPT2, "d_model": 1024, "n_heads": 16, "n_layers": 24},
    # Zhang et al. 2024 (TinyLlama, https://arxiv.org/abs/2401.02385); 1,100,048,384 parameters.
    "llama_1b": {
        **_LLAMA,
        "d_model": 2048,
        "n_heads": 32,
        "n_kv_heads": 4,
        "n_layers": 22,
        "d_ff": 5632,
        "max_seq_len": 2048,
        "tie_embeddings": False,
    },
    # The 15M TinyStories model of llama2.c; 15,191,712 parameters.
    "llama2c_15m": {
        **_LLAMA,
        "d_model": 288,
        "n_heads": 6,
        "n_layers": 6,
        "d_ff": 768,
        "max_seq_len": 256,
        "tie_embeddings": True,
    },
    # Devlin et al. 2018; 109,514,298 parameters, as in BertForMaskedLM. (With the pooler and the next-sentence head of
    # BertForPreTraining, which masked words do not need, they are 110,106,428.)
    "bert_base": {**_BERT, "d_model": 768, "n_heads": 12, "n_layers": 12},
    # Raffel et al. 2020; 60,506,624 parameters.
    "t5_small": {
        **_T5,
        "d_model": 512,
        "n_heads": 8,
        "n_layers": 6,
        "d_ff": 2048,
        "activation": "relu",
        "tie_embeddings": True,
        "scale_logits": True,
    },
    # The same with the gated network and the output layer of its own of version 1.1; 76,961,152 parameters.
    "t5_v1_1_small": {
        **_T5,
        "d_model": 512,
        "n_heads": 6,
        "n_layers": 8,
        "d_ff": 1024,
        "activation": "geglu_tanh",
        "tie_embeddings": False,
    },
    # Vaswani et al. 2017, the base model; 63,054,848 parameters with 37,000 tokens (they say 65 million). Equal stacks,
    # one embedding for source, target and output.
    "transformer_2017": {
        "family": "encoder_decoder",
        "vocab_size": 37000,
        "d_model": 512,
        "n_heads": 8,
        "n_layers": 6,
        "d_ff": 2048,
        "max_seq_len": 1024,
        "position": "sinusoidal",
        "norm": "layernorm",
        "pre_norm": False,
        "activation": "relu",
        "bias": True,
        "qkv_bias": False,
        "tie_embeddings": True,
        "dropout": 0.1,
    },
}
ALIASES = {"stories15m": "llama2c_15m", "gpt2": "gpt2_124m", "gpt2_medium": "gpt2_350m"}


def preset(name: str, **changes: Any) -> ModelConfig:
    """The configuration of a well-known shape.

    Args:
        name: a key of :data:`PRESETS`, or an alias.
        **changes: values to replace, such as ``max_seq_len=2048``.

    Raises:
        ConfigError: there is no such preset, or a change is not valid.
    """
    key = ALIASES.get(name, name)
    if key not in PRESETS:
        match = difflib.get_close_matches(name, [*PRESETS, *ALIASES], n=1)
        guess = f"did you mean {match[0]!r}? " if match else ""
        raise ConfigError([f"no preset is named {name!r}; {guess}known: {', '.join(PRESETS)}"])
    return ModelConfig.from_dict({**PRESETS[key], **changes})
