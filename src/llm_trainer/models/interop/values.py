"""Of what kind the values of a ``config.json`` are, seen before anything is computed with them.

What they may be beyond that, :class:`~llm_trainer.config.ModelConfig` knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_trainer.common.errors import ConfigError
from llm_trainer.config.model import MOST_LAYERS

NUMBERS = (
    *("vocab_size", "hidden_size", "n_embd", "d_model", "d_kv", "head_dim", "intermediate_size", "n_inner", "d_ff"),
    *("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "num_attention_heads", "n_head", "num_heads"),
    *("num_key_value_heads", "max_position_embeddings", "n_positions", "sliding_window", "max_window_layers"),
    *("num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step"),
    *("rope_theta", "type_vocab_size", "decoder_start_token_id", "pad_token_id"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
)
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers")
SIZES = tuple(name for name in NUMBERS if name.startswith(("hidden_", "n_", "num_", "d_", "head_")))
WORDS = ("model_type", "activation_function", "hidden_act", "feed_forward_proj")
LISTS = ("layer_types", "mlp_only_layers", "architectures")
MAPPINGS = ("rope_scaling", "rope_parameters", "id2label")
ROPE_WORDS = ("rope_type", "type")


def require_kinds(values: Mapping[str, Any]) -> None:
    """Stop at a word where a number belongs, and the like. A value that is absent or null is of any kind.

    Args:
        values: the content of ``config.json``.

    Raises:
        ConfigError: naming every such value.
    """
    problems = [
        *_strange(values, NUMBERS, "a number", _is_number),
        *_strange(values, WORDS, "a word", lambda value: isinstance(value, str)),
        *_strange(values, LISTS, "a list of words or numbers", _is_flat_list),
        *_strange(values, MAPPINGS, "a mapping", lambda value: isinstance(value, dict)),
    ]
    for name in ("rope_scaling", "rope_parameters"):
        inner = values.get(name)
        if isinstance(inner, dict):
            numbers = [key for key in inner if key not in ROPE_WORDS]
            found = [
                *_strange(inner, ROPE_WORDS, "a word", lambda value: isinstance(value, str)),
                *_strange(inner, numbers, "a number", lambda value: isinstance(value, (int, float))),
            ]
            problems += [f"{name}: {problem}" for problem in found]
    labels = values.get("id2label")
    if isinstance(labels, dict) and not all(str(number).isdecimal() for number in labels):
        problems.append(f"id2label: expected numbers, got {sorted(labels)!r}")
    problems += [f"{name}={values[name]!r}: expected more than 0" for name in SIZES if _is_below_one(values.get(name))]
    if values.get("quantization_config") is not None:
        problems.append("quantization_config: quantised weights are not read; take the model before it was quantised")
    # Here, because a layout makes lists of layers.
    problems += [
        f"{name}={values[name]!r}: expected at most {MOST_LAYERS:,}"
        for name in LAYERS
        if isinstance(values.get(name), (int, float)) and values[name] > MOST_LAYERS
    ]
    if problems:
        raise ConfigError(problems, source="the configuration of this model")


def _strange(values: Mapping[str, Any], names: Any, kind: str, is_right: Any) -> list[str]:
    return [
        f"{name}={values[name]!r}: expected {kind}"
        for name in names
        if values.get(name) is not None and not is_right(values[name])
    ]


def _is_number(value: object) -> bool:
    """Finite, and no truth value: ``true`` is 1 to Python."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_below_one(value: object) -> bool:
    return isinstance(value, (int, float)) and value < 1


def _is_flat_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, (str, int)) for item in value)
