"""How transformers writes scaled rotary positions: one dictionary, which becomes flat settings here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_trainer.common.errors import ConfigError

# transformers' names in rope_scaling or rope_parameters -> ours.
ROPE_NAMES = {
    "rope_type": "rope_scaling",
    "type": "rope_scaling",
    "rope_theta": "rope_theta",
    "factor": "rope_factor",
    "original_max_position_embeddings": "rope_original_length",
    "attention_factor": "rope_attention_factor",
    "beta_fast": "rope_beta_fast",
    "beta_slow": "rope_beta_slow",
    "low_freq_factor": "rope_low_freq_factor",
    "high_freq_factor": "rope_high_freq_factor",
}


def flatten_rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """Accept the dictionary that other tools give as ``rope_scaling`` or ``rope_parameters``.

    Raises:
        ConfigError: it holds something that has no name here, or one of our fields is given besides.
    """
    flat = dict(values)
    for key in ("rope_scaling", "rope_parameters"):
        nested = flat.get(key)
        if not isinstance(nested, Mapping):
            continue
        del flat[key]
        for name, value in nested.items():
            if name not in ROPE_NAMES:
                raise ConfigError([f"{key}.{name}: unknown key; known: {', '.join(ROPE_NAMES)}"])
            ours = ROPE_NAMES[name]
            value = None if (ours, value) == ("rope_scaling", "default") else value
            if flat.get(ours, value) != value:
                raise ConfigError([f"{key}.{name} and {ours} say different things; give one of them"])
            flat[ours] = float(value) if isinstance(value, int) and ours != "rope_original_length" else value
    return flat
