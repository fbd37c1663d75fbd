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
