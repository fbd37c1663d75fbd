"""Rotary positions in ``config.json``: the base and its scaling, as either generation of transformers writes them.

transformers 5 keeps both in ``rope_parameters``; earlier versions, and programs that read their files, look for
``rope_theta`` and ``rope_scaling``. Exports have all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig

FIELDS = (
    *("rope_theta", "rope_scaling", "rope_factor", "rope_original_length", "rope_attention_factor"),
    *("rope_beta_fast", "rope_beta_slow", "rope_low_freq_factor", "rope_high_freq_factor"),
)
"""The fields of ours that these functions translate."""
DEFAULT_THETA = 10000.0
# What each kind of scaling reads: their key -> our field.
KEYS: dict[str, dict[str, str]] = {
    "linear": {"factor": "rope_factor"},
    "dynamic": {"factor": "rope_factor"},
    "yarn": {
        "factor": "rope_factor",
        "original_max_position_embeddings": "rope_original_length",
        "attention_factor": "rope_attention_factor",
        "beta_fast": "rope_beta_fast",
        "beta_slow": "rope_beta_slow",
    },
    "llama3": {
        "factor": "rope_factor",
        "original_max_position_embeddings": "rope_original_length",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
    },
}
# Options that change nothing at these values, and that our models do not have at others.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (None, 1.0),
    "mscale": (None, 0, 1.0),
    "mscale_all_dim": (None, 0),
    "truncate": (None, True),
}


def rope_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The keys of ``config.json`` that describe the rotary positions of ``config``, and the length they are for."""
    theta, length = scaled_theta(config), config.max_seq_len
    kind = "default" if config.rope_scaling in (None, "ntk") else str(config.rope_scaling)
    resolved = {"rope_original_length": config.rope_trained_length}
    scaling = {
        key: value
        for key, field in KEYS.get(kind, {}).items()
        if (value := resolved.get(field, getattr(config, field))) is not None
    }
    if kind == "dynamic":
        # There, the length is that of training, and longer texts change the base as they come.
        length = config.rope_trained_length
    values: dict[str, Any] = {
        "max_position_embeddings": length,
        "rope_theta": theta,
        "rope_parameters": {"rope_type": kind, "rope_theta": theta, **scaling},
    }
    if kind == "dynamic":
        values["max_seq_len"] = config.max_seq_len  # no option there; kept for the way back
    if scaling:
        values["rope_scaling"] = {"rope_type": kind, **scaling}
    return values


def scaled_theta(config: ModelConfig) -> float:
    """The base of the rotary frequencies; fixed NTK-aware scaling is no more than another base."""
    if config.rope_scaling != "ntk":
        return config.rope_theta
    width = config.head_dim
    return float(config.rope_theta * config.rope_factor ** (width / (width - 2)))


def rope_from_hf(values: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Our fields, ``max_seq_len`` among them, from the content of ``config.json``.

    Raises:
        ConfigError: a scaling, or an option of one, that our models do not have; or the length is missing.
    """
    source = f"the configuration of this {family} model"
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope: dict[str, Any] = dict(values.get(key) or {})
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    theta = rope.pop("rope_theta", None) or values.get("rope_theta") or DEFAULT_THETA
    if kind != "default" and kind not in KEYS:
        raise ConfigError([f"{key}: rope_type={kind!r} is not supported; known: {', '.join(KEYS)}"], source=source)
    known = KEYS.get(kind, {})
    options = {"partial_rotary_factor": values.get("partial_rotary_factor"), **rope}
    problems = [
        f"{key}: {name}={value!r} is not supported"
        for name, value in options.items()
        if name not in known and value not in HARMLESS.get(name, (None,)) and not _is_idle(kind, name)
    ]
    length = values.get("max_position_embeddings")
    if length is None:
        problems.append("max_position_embeddings is missing")
    if kind != "default" and rope.get("factor") is None:
        problems.append(f"{key}: rope_type={kind!r} needs a factor")
    if problems or length is None:
        raise ConfigError(problems, source=source)
    fields = {field: rope[name] for name, field in known.items() if rope.get(name) is not None}
    fields = {field: int(v) if field == "rope_original_length" else float(v) for field, v in fields.items()}
    if kind == "dynamic":
        fields["rope_original_length"] = length
        length = values.get("max_seq_len") or round(length * fields["rope_factor"])
    elif "original_max_position_embeddings" in known:
        fields.setdefault("rope_original_length", length)
    if kind != "default":
        fields["rope_scaling"] = kind
    return {"rope_theta": float(theta), "max_seq_len": length, **fields}


def _is_idle(kind: str, name: str) -> bool:
    """transformers writes the length of training beside every kind of scaling; only some read it."""
    return name == "original_max_position_embeddings" and kind in ("default", "linear")
