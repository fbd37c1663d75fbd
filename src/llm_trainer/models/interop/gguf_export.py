"""GGUF, the file that llama.cpp and what is built on it run (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

One file holds shape, weights and tokenizer. The ``gguf`` package writes its frame; names, order of rows and formats of
the weights are decided here. Tensors are written one after another, so no second copy of the model is held.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.common.files import explain_os_errors, fsync_dir, fsync_file, require_free_space
from llm_trainer.common.optional import require
from llm_trainer.config import ModelConfig
from llm_trainer.models.base import BaseLanguageModel
from llm_trainer.models.interop.gguf_tokenizer import GGUFVocabulary, gguf_vocabulary
from llm_trainer.models.interop.layouts import LAYOUTS, nearest_layout
from llm_trainer.models.interop.llama2c import to_pairs
from llm_trainer.models.interop.rope import scaled_theta
from llm_trainer.models.lora import lora_layers
from llm_trainer.tokenizer import Tokenizer

GGUFType = Literal["f32", "f16", "bf16", "q8_0"]
# The layout of transformers -> llama.cpp's architecture. Mistral is a Llama there.
ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
TOP = {
    "embed_tokens": "token_embd",
    "position_embedding.embedding": "position_embd",
    "final_norm": "output_norm",
    "lm_head": "output",
}
LAYER = {
    "attention_norm": "attn_norm",
    "attention.q_proj": "attn_q",
    "attention.k_proj": "attn_k",
    "attention.v_proj": "attn_v",
    "attention.o_proj": "attn_output",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "ffn_norm": "ffn_norm",
    "feed_forward.gate_proj": "ffn_gate",
    "feed_forward.up_proj": "ffn_up",
    "feed_forward.down_proj": "ffn_down",
}
FUSED = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
# Whole in every format, as llama.cpp's own converter leaves them: they are small, and added rather than multiplied.
ALWAYS_F32 = ("position_embd",)
LARGEST_F16 = 65504.0


@dataclass(frozen=True)
class GGUFReport:
    """What was written."""

    path: Path
    architecture: str
    formats: dict[str, int]
    """Format -> number of tensors in it."""
    notes: tuple[str, ...]
    """In what the model or its tokenizer differs there, one sentence each."""


def gguf_problems(config: ModelConfig) -> list[str]:
    """Why llama.cpp cannot run a model of this shape, one sentence for each setting; empty if it can."""
    name = nearest_layout(config)
    if name not in ARCHITECTURES:
        kinds = ", ".join(ARCHITECTURES)
        return [f"in transformers this would be a {name}, and only {kinds} are written as GGUF"]
    problems = LAYOUTS[name].export_problems(config)
    activation = "gelu_tanh" if name == "gpt2" else "swiglu"
    if config.activation != activation:
        problems.append(f"activation={config.activation!r}: llama.cpp's {ARCHITECTURES[name]} has only {activation!r}")
    if config.bias and name != "gpt2":
        problems.append("bias=True: llama.cpp's biases for Llama are not written")
    scaling = config.rope_scaling
    if scaling == "dynamic":
        problems.append("rope_scaling='dynamic': llama.cpp has only linear, yarn and llama3, and a fixed base (ntk)")
    if scaling == "yarn" and config.rope_attention_factor is not None:
        problems.append(f"rope_attention_factor={config.rope_attention_factor}: llama.cpp derives it from the factor")
    if scaling == "yarn" and (config.rope_beta_fast, config.rope_beta_slow) != (32.0, 1.0):
        problems.append("rope_beta_fast, rope_beta_slow: llama.cpp has only 32 and 1")
    return problems


def export_gguf(
    model: BaseLanguageModel, tokenizer: Tokenizer, path: str | Path, *, dtype: GGUFType = "f16", name: str = "model"
) -> GGUFReport:
    """Write a model and its tokenizer to one GGUF file.

    Args:
        model: a GPT-2, Llama, Mistral, Qwen2 or Qwen3, in whatever size.
        tokenizer: of the model; see :mod:`~llm_trainer.models.interop.gguf_tokenizer`.
        path: of the file.
        dtype: of the matrices; ``q8_0`` takes 8.5 bits a weight, in blocks of 32 that share a scale. Vectors stay
            float32, and so do matrices whose rows do not divide into such blocks, in float16.
        name: how programs call the model.

    Raises:
        ConfigError: llama.cpp has no such model; the message names each field that stands in the way.
        UserError: the package ``gguf`` is missing, the tokenizer cannot be written, a weight does not fit the format,
            or there is no space. An old file is then untouched.
    """
    gguf = require("gguf", extra="export", purpose="writing a GGUF file")
    config, path = model.config, Path(path)
    problems = gguf_problems(config)
    if any(True for _ in lora_layers(model)):
        problems.append("the model has LoRA adapters; merge them first (llm_trainer.models.lora.merge_lora)")
    if problems:
        raise ConfigError(problems, source="a model that llama.cpp cannot run")
    vocabulary = gguf_vocabulary(tokenizer, config.vocab_size)
    layout = str(nearest_layout(config))
    architecture = ARCHITECTURES[layout]
    length, notes = _length(config)
    writer = gguf.GGUFWriter(None, architecture)
    _write_shape(gguf, writer, config, architecture, length, dtype, name)
    _write_vocabulary(writer, vocabulary)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template.source)
    formats: dict[str, int] = {}
    total = 0
    for tensor_name, tensor in _tensors(model, architecture):
        kind = _format(tensor_name, tensor, dtype)
        formats[kind] = formats.get(kind, 0) + 1
        size = _bytes(gguf, tensor.shape, kind)
        total += size
        writer.add_tensor_info(
            tensor_name, list(tensor.shape), np.dtype(np.float32), size, raw_dtype=gguf.GGMLQuantizationType[kind]
        )
    if dtype == "q8_0" and "F16" in formats:
        notes.append(f"{formats['F16']} matrices are in float16: their rows are no multiple of 32 numbers")
    require_free_space(path.parent, total + (1 << 20), purpose=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with explain_os_errors(path):
            writer.write_header_to_file(temporary)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor_name, tensor in _tensors(model, architecture):
                writer.write_tensor_data(_encoded(gguf, tensor_name, tensor, _format(tensor_name, tensor, dtype)))
            writer.flush()
            writer.close()
            fsync_file(temporary)
            temporary.replace(path)
            fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return GGUFReport(path, architecture, formats, (*notes, *vocabulary.notes))


def _length(config: ModelConfig) -> tuple[int, list[str]]:
    """The longest text that llama.cpp reads as we do: its Llama and Qwen see past a sliding window."""
    window, length = config.sliding_window, config.max_seq_len
    if window is None or window >= length:
        return length, []
    note = f"the context is {window:,} tokens, not {length:,}: llama.cpp has no sliding window for this model, and up"
    return window, [f"{note} to the width of the window the two are the same"]


def _write_shape(
    gguf: Any, writer: Any, config: ModelConfig, architecture: str, length: int, dtype: GGUFType, name: str
) -> None:
    writer.add_name(name)
    writer.add_file_type(
        {
            "f32": gguf.LlamaFileType.ALL_F32,
            "f16": gguf.LlamaFileType.MOSTLY_F16,
            "bf16": gguf.LlamaFileType.MOSTLY_BF16,
            "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        }[dtype]
    )
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.n_heads)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(scaled_theta(config))
    if config.rope_scaling in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType[config.rope_scaling.upper()])
        writer.add_rope_scaling_factor(config.rope_factor)
        writer.add_rope_scaling_orig_ctx_len(config.rope_trained_length)


def _write_vocabulary(writer: Any, vocabulary: GGUFVocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.cut is not None:
        writer.add_tokenizer_pre(vocabulary.cut)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges or vocabulary.model == "gpt2":
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.bos is not None:
        writer.add_bos_token_id(vocabulary.bos)
    if vocabulary.eos is not None:
        writer.add_eos_token_id(vocabulary.eos)
    if vocabulary.pad is not None:
        writer.add_pad_token_id(vocabulary.pad)
    if vocabulary.unknown is not None:
        writer.add_unk_token_id(vocabulary.unknown)
    if vocabulary.add_space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    # Documents begin with the start token in training, and so do prompts.
    writer.add_add_bos_token(vocabulary.bos is not None)
    writer.add_add_eos_token(False)


def _tensors(model: BaseLanguageModel, architecture: str) -> Iterator[tuple[str, Tensor]]:
    """Name and values, float32 on the CPU, of every tensor in the file."""
    config, state = model.config, model.state_dict()
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if config.tie_embeddings and module == "lm_head":
            continue
        if not module.startswith("blocks."):
            yield f"{TOP[module]}.{kind}", _plain(tensor)
            continue
        _, layer, part = module.split(".", 2)
        if architecture == "gpt2" and part in FUSED:
            if part == FUSED[0]:
                parts = [_plain(state[f"blocks.{layer}.{fused}.{kind}"]) for fused in FUSED]
                yield f"blk.{layer}.attn_qkv.{kind}", torch.cat(parts)
            continue
        values = _plain(tensor)
        if architecture == "llama" and part in FUSED[:2]:
            # llama.cpp rotates neighbours in Llama, and halves, like us, in Qwen.
            values = to_pairs(values, config.head_dim)
        yield f"blk.{layer}.{LAYER[part]}.{kind}", values
    if config.rope_scaling == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32)


def _llama3_factors(config: ModelConfig) -> Tensor:
    """By what llama.cpp divides each rotary frequency, (head_dim / 2): the scaling of Llama 3.1, which it has only as
    a table."""
    width, length = config.head_dim, config.rope_trained_length
    frequencies = config.rope_theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    turns = length * frequencies / (2 * math.pi)  # within the length of training
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    share = ((turns - low) / (high - low)).clamp(0, 1)  # of the frequency that stays as it was
    return (1 / (share + (1 - share) / config.rope_factor)).float()


def _format(name: str, tensor: Tensor, dtype: GGUFType) -> str:
    """The name in ggml of the format that a tensor is written in."""
    if tensor.ndim < 2 or name.startswith(ALWAYS_F32):
        return "F32"
    if dtype == "q8_0" and tensor.shape[-1] % 32:
        return "F16"
    return dtype.upper()


def _bytes(gguf: Any, shape: torch.Size, kind: str) -> int:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return int(np.prod(shape)) // int(block) * int(size)


def _encoded(gguf: Any, name: str, tensor: Tensor, kind: str) -> npt.NDArray[Any]:
    values = np.ascontiguousarray(tensor.numpy())
    if kind in ("F16", "Q8_0") and not np.abs(values).max(initial=0.0) <= LARGEST_F16:
        raise UserError(
            f"{name} holds numbers beyond {LARGEST_F16:,.0f}, which {kind} has no place for", hint="use bf16 or f32"
        )
    encoded: npt.NDArray[Any] = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    return encoded
