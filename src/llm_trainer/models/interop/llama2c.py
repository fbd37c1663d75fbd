"""The ``.bin`` of llama2.c (https://github.com/karpathy/llama2.c), which its ``run.c`` maps into memory, both ways.

Version 0, the one that ``run.c`` reads: seven 32-bit integers, then all weights in float32, little-endian, without
names. What the file does not say is fixed in the program: rotary base 10,000, epsilon 1e-5, SwiGLU, no biases.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llm_trainer.common.errors import ConfigError, CorruptionError, DataError
from llm_trainer.common.files import atomic_write, require_free_space
from llm_trainer.config import ModelConfig
from llm_trainer.models.base import BaseLanguageModel
from llm_trainer.models.interop.layout import require_shape
from llm_trainer.models.lora import lora_layers
from llm_trainer.models.transformer import TransformerLM
from llm_trainer.models.weights import load_into

HEADER = struct.Struct("<7i")
MAGIC = 0x616B3432
"""How versions 1 and 2 of the file begin."""
THETA, EPSILON = 10000.0, 1e-5
SPOKEN = ("vocab_size", "d_model", "d_ff", "n_heads", "n_kv_heads", "n_layers", "max_seq_len", "tie_embeddings")
# In the order of the file: all layers of the first, then all layers of the next.
BEFORE = ("attention_norm", "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")
AFTER = ("ffn_norm", "feed_forward.gate_proj", "feed_forward.down_proj", "feed_forward.up_proj")
ROTATED = ("attention.q_proj", "attention.k_proj")


def llama2c_problems(config: ModelConfig) -> list[str]:
    """Why a model of this shape cannot be run by llama2.c, one sentence for each setting; empty if it can."""
    problems = require_shape(
        config,
        "llama2.c",
        {
            "position": ("rope",),
            "rope_theta": (THETA,),
            "norm": ("rmsnorm",),
            "norm_eps": (EPSILON,),
            "activation": ("swiglu",),
            "bias": (False,),
            "qkv_bias": (None, False),
        },
        (*SPOKEN, "d_head"),
    )
    if config.head_dim * config.n_heads != config.d_model:
        problems.append(f"d_head={config.d_head}: llama2.c has only d_model / n_heads")
    return problems


def export_llama2c(model: BaseLanguageModel, path: str | Path, *, tokens: int | None = None) -> None:
    """Write ``model`` as ``run.c`` reads it, in float32.

    Args:
        model: in the layout of Llama 2.
        path: of the ``.bin`` file.
        tokens: rows of the vocabulary to write, for ``run.c`` wants as many as its tokenizer has; left out: all.

    Raises:
        ConfigError: llama2.c has no such model; the message names each field that stands in the way.
        UserError: no space or no permission; an old file is then untouched.
    """
    config = model.config
    problems = llama2c_problems(config)
    if any(True for _ in lora_layers(model)):
        problems.append("the model has LoRA adapters; merge them first (llm_trainer.models.lora.merge_lora)")
    if problems:
        raise ConfigError(problems, source="a model that llama2.c cannot run")
    path, state = Path(path), model.state_dict()
    rows = config.vocab_size if tokens is None else min(tokens, config.vocab_size)
    # A negative size of the vocabulary says that the output layer is a matrix of its own.
    vocabulary = rows if config.tie_embeddings else -rows
    shape = (config.d_model, config.ffn_dim, config.n_layers, config.n_heads, config.kv_heads)
    require_free_space(path.parent, 4 * model.num_parameters() + (1 << 20), purpose=str(path))
    with atomic_write(path) as file:
        file.write(HEADER.pack(*shape, vocabulary, config.max_seq_len))
        for name, part in _order(config):
            if part == "rotary tables":
                tensor = _rotary_tables(config)  # run.c computes them itself, older readers take them from here
            else:
                tensor = state[name].detach().float().cpu()
            if name in ("embed_tokens.weight", "lm_head.weight"):
                tensor = tensor[:rows]
            if part in ROTATED:
                tensor = to_pairs(tensor, config.head_dim)
            file.write(np.ascontiguousarray(tensor.numpy(), dtype="<f4").tobytes())


def load_llama2c(path: str | Path) -> TransformerLM:
    """Read what llama2.c or :func:`export_llama2c` wrote.

    Raises:
        DataError: the file cannot be read, or is of a later version than ``run.c`` reads.
        CorruptionError: it is cut off, or of another kind.
    """
    path = Path(path)
    config, size = _read_header(path)
    with torch.device("meta"):
        model = TransformerLM(config)
    expected = HEADER.size + 4 * sum(
        config.max_seq_len * config.head_dim if part == "rotary tables" else model.get_parameter(name).numel()
        for name, part in _order(config)
    )
    if size != expected:
        raise CorruptionError(
            f"{path} is no whole model of llama2.c: its header asks for {expected:,} bytes, and it has {size:,}",
            hint="copy or download it again",
        )
    model = TransformerLM(config)
    tensors: dict[str, Tensor] = {}
    with path.open("rb") as file:
        file.seek(HEADER.size)
        for name, part in _order(config):
            if part == "rotary tables":
                file.seek(4 * config.max_seq_len * config.head_dim, 1)
                continue
            shape = tuple(model.get_parameter(name).shape)
            values = np.fromfile(file, dtype="<f4", count=int(np.prod(shape))).reshape(shape)
            tensor = torch.from_numpy(values.astype(np.float32))
            tensors[name] = to_halves(tensor, config.head_dim) if part in ROTATED else tensor
    load_into(model, tensors, source=str(path))
    return model.eval()


def to_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """From our rotary layout to that of llama2.c (and of Meta, and of llama.cpp).

    Ours turns number i of a head with number i + head_dim / 2, theirs number 2 i with number 2 i + 1 (the same as in
    transformers: https://github.com/huggingface/transformers/issues/25199). The rows of queries and keys move; the
    scores, which are sums over a head, stay.

    Args:
        weight: (heads * head_dim, ...), a matrix or a bias.
        head_dim: rows of one head.
    """
    halves = weight.view(-1, 2, head_dim // 2, *weight.shape[1:])  # (heads, 2, head_dim / 2, ...)
    return halves.transpose(1, 2).reshape(weight.shape)


def to_halves(weight: Tensor, head_dim: int) -> Tensor:
    """The way back from :func:`to_pairs`."""
    pairs = weight.view(-1, head_dim // 2, 2, *weight.shape[1:])  # (heads, head_dim / 2, 2, ...)
    return pairs.transpose(1, 2).reshape(weight.shape)


def _order(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Name of each tensor of ours in the order of the file, and which part of a block it is."""
    yield "embed_tokens.weight", ""
    for part in (*BEFORE, *AFTER):
        for layer in range(config.n_layers):
            yield f"blocks.{layer}.{part}.weight", part
    yield "final_norm.weight", ""
    yield "", "rotary tables"
    if not config.tie_embeddings:
        yield "lm_head.weight", ""


def _rotary_tables(config: ModelConfig) -> Tensor:
    """Cosines of all positions, then sines: (2, max_seq_len, head_dim / 2)."""
    frequencies = THETA ** (-torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim)
    angles = torch.outer(torch.arange(config.max_seq_len, dtype=torch.float64), frequencies)
    return torch.stack((angles.cos(), angles.sin())).float()


def _read_header(path: Path) -> tuple[ModelConfig, int]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER.size)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
    damaged = CorruptionError(f"{path} is no model of llama2.c: its header makes no sense", hint="name a model.bin")
    if len(header) < HEADER.size:
        raise damaged
    width, ffn, layers, heads, kv_heads, vocabulary, length = HEADER.unpack(header)
    if width == MAGIC:
        raise DataError(
            f"{path} is version {ffn} of llama2.c's format, and only version 0 is read",
            hint="write it as version 0, which run.c reads: python export.py model.bin --version 0",
        )
    if not (0 < layers < 10_000 and min(width, ffn, heads, kv_heads, length) > 0 and vocabulary != 0):
        raise damaged
    # Before anything is built from these numbers: the table of tokens, a matrix and the norms of all layers alone.
    least = 4 * width * max(abs(vocabulary), ffn, layers)
    if size < least:
        raise CorruptionError(
            f"{path} is no whole model of llama2.c: its header asks for {least:,} bytes or more, and it has {size:,}",
            hint="copy or download it again",
        )
    try:
        config = ModelConfig(
            vocab_size=abs(vocabulary),
            d_model=width,
            n_heads=heads,
            n_kv_heads=kv_heads,
            n_layers=layers,
            d_ff=ffn,
            max_seq_len=length,
            norm_eps=EPSILON,
            rope_theta=THETA,
            tie_embeddings=vocabulary > 0,
        )
    except ConfigError:
        raise damaged from None
    return config, size
