"""A Llama as llama2.c's own model would print itself (https://github.com/karpathy/llama2.c, ``model.py``)."""

from __future__ import annotations

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.models.interop.llama import LLAMA, LlamaLayout

Part = tuple[str, "str | list[Part]", str]
"""Name; class with its arguments, or the parts inside; class, if there are parts."""


def llama2c_tree(config: ModelConfig) -> str:
    """What ``print(model)`` shows in llama2.c for a model of this shape.

    Raises:
        ConfigError: llama2.c has no such model; the message names each setting that stands in the way.
    """
    problems = LlamaLayout(LLAMA).export_problems(config)
    if config.bias:
        problems.append("bias=True: llama2.c has only False")
    if config.activation != "swiglu":
        problems.append(f"activation={config.activation!r}: llama2.c has only 'swiglu'")
    if problems:
        raise ConfigError(problems, source="a model that llama2.c does not have")
    width, keys = config.d_model, config.kv_heads * config.head_dim
    attention: list[Part] = [
        ("wq", _linear(width, config.n_heads * config.head_dim), ""),
        ("wk", _linear(width, keys), ""),
        ("wv", _linear(width, keys), ""),
        ("wo", _linear(config.n_heads * config.head_dim, width), ""),
        ("attn_dropout", _dropout(config.attention_dropout), ""),
        ("resid_dropout", _dropout(config.residual_dropout), ""),
    ]
    feed_forward: list[Part] = [
        ("w1", _linear(width, config.ffn_dim), ""),
        ("w2", _linear(config.ffn_dim, width), ""),
        ("w3", _linear(width, config.ffn_dim), ""),
        ("dropout", _dropout(config.residual_dropout), ""),
    ]
    block: list[Part] = [
        ("attention", attention, "Attention"),
        ("feed_forward", feed_forward, "FeedForward"),
        ("attention_norm", "RMSNorm()", ""),
        ("ffn_norm", "RMSNorm()", ""),
    ]
    count = config.n_layers
    numbers, times = (f"0-{count - 1}", f"{count} x ") if count > 1 else ("0", "")
    model: list[Part] = [
        ("tok_embeddings", f"Embedding({config.vocab_size}, {width})", ""),
        ("dropout", _dropout(config.embedding_dropout), ""),
        ("layers", [(numbers, block, f"{times}TransformerBlock")], "ModuleList"),
        ("norm", "RMSNorm()", ""),
        ("output", _linear(width, config.vocab_size), ""),
    ]
    return "\n".join(["Transformer(", *_lines(model, 1), ")"])


def _lines(parts: list[Part], depth: int) -> list[str]:
    lines = []
    for name, content, kind in parts:
        indent = "  " * depth
        if isinstance(content, str):
            lines.append(f"{indent}({name}): {content}")
        else:
            lines += [f"{indent}({name}): {kind}(", *_lines(content, depth + 1), f"{indent})"]
    return lines


def _linear(inputs: int, outputs: int) -> str:
    return f"Linear(in_features={inputs}, out_features={outputs}, bias=False)"


def _dropout(probability: float) -> str:
    return f"Dropout(p={probability}, inplace=False)"
