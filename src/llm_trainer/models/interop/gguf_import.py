"""GGUF files as models and tokenizers of ours: what :mod:`~llm_trainer.models.interop.gguf_export` writes, and files of
others in the same architectures. Quantised weights come back as float32; what was rounded away does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_trainer.common.errors import CheckpointError, ConfigError, CorruptionError, DataError, UserError
from llm_trainer.common.optional import require
from llm_trainer.config import ModelConfig
from llm_trainer.models.interop.gguf_export import FUSED, LAYER, TOP
from llm_trainer.models.interop.gguf_tokenizer import CONTROL, CUTS, UNUSED
from llm_trainer.models.interop.llama2c import to_halves
from llm_trainer.models.plausible import require_weights_for
from llm_trainer.models.transformer import TransformerLM
from llm_trainer.models.weights import load_into
from llm_trainer.tokenizer import BPETokenizer
from llm_trainer.tokenizer.pretokenize import split_pattern
from llm_trainer.tokenizer.vocabulary import BPEVocabulary, unprintable

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")
FORMATS = ("F32", "F16", "BF16", "Q8_0")
# llama.cpp's names of one and the same cut.
CUT_NAMES = {
    **{name: pattern for pattern, name in CUTS.items()},
    **dict.fromkeys(("llama3", "smaug-bpe", "dbrx"), split_pattern("gpt4", 3)),
}


class GGUFFile:
    """An open GGUF file.

    Args:
        path: of the file.

    Raises:
        DataError: it cannot be read.
        CorruptionError: it is cut off or of another kind.
        UserError: the package ``gguf`` is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._gguf = require("gguf", extra="export", purpose="reading a GGUF file")
        try:
            self._reader = self._gguf.GGUFReader(self.path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
        except (ValueError, IndexError, KeyError) as error:
            raise self._damaged(str(error)) from None
        self.architecture = str(self._value("general.architecture"))

    def _value(self, key: str, default: Any = None) -> Any:
        field = self._reader.get_field(key)
        try:
            return default if field is None else field.contents()
        except (ValueError, IndexError) as error:  # text that is none, an index beyond the file
            raise self._damaged(f"the value of {key!r} makes no sense: {error}") from None

    def _number(self, name: str, default: float | None = None) -> Any:
        """A value of the architecture, more than 0; needed where there is no ``default``."""
        key = f"{self.architecture}.{name}"
        value = self._value(key, default)
        if value is None:
            raise CheckpointError(f"{self.path} lacks the key {key!r}")
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise CheckpointError(f"{self.path}: {key}={value!r} is not supported: expected a number above 0")
        return value

    def _damaged(self, what: str) -> CorruptionError:
        return CorruptionError(f"{self.path} is no whole GGUF file: {what}", hint="copy or download it again")

    def config(self) -> ModelConfig:
        """The shape of the model.

        Raises:
            ConfigError: an architecture or an option that our models do not have.
        """
        name = self.architecture
        if name not in ARCHITECTURES:
            raise ConfigError(
                [f"general.architecture={name!r} is not supported; known: {', '.join(ARCHITECTURES)}"],
                source=str(self.path),
            )
        scaling = self._value(f"{name}.rope.scaling.type", "none")
        names = {tensor.name for tensor in self._reader.tensors}
        problems = []
        if scaling != "none":
            problems.append(f"{name}.rope.scaling.type={scaling!r} is not supported")
        for found in sorted(names):
            if found == "rope_freqs.weight" or (found.endswith("_exps.weight") and found.startswith("blk.0.")):
                problems.append(f"the tensor {found!r} belongs to a kind of model that is not read from GGUF files")
        if problems:
            raise ConfigError(problems, source=str(self.path))
        width, heads = self._number("embedding_length"), self._number("attention.head_count")
        values: dict[str, Any] = {
            "vocab_size": self._rows("token_embd.weight"),
            "d_model": width,
            "n_heads": heads,
            "n_layers": self._number("block_count"),
            "d_ff": self._number("feed_forward_length"),
            "max_seq_len": self._number("context_length"),
            "tie_embeddings": "output.weight" not in names,
        }
        if name == "gpt2":
            kind: dict[str, Any] = {"position": "learned", "norm": "layernorm", "bias": True, "activation": "gelu_tanh"}
            return ModelConfig(**values, **kind, norm_eps=_short(self._number("attention.layer_norm_epsilon")))
        head = self._number("attention.key_length", width // heads)
        return ModelConfig(
            **values,
            n_kv_heads=self._number("attention.head_count_kv", heads),
            d_head=None if head * heads == width else head,
            norm_eps=_short(self._number("attention.layer_norm_rms_epsilon")),
            rope_theta=_short(self._number("rope.freq_base", 10000.0)),
            qkv_bias=True if "blk.0.attn_q.bias" in names else None,
            qk_norm=name == "qwen3",
        )

    def model(self) -> TransformerLM:
        """The model, in float32.

        Raises:
            ConfigError: an architecture or an option that our models do not have.
            CheckpointError: a tensor is missing, left over, of another shape or in a format that is not read.
        """
        config = self.config()
        sizes = [math.prod(map(int, tensor.shape)) for tensor in self._reader.tensors]
        require_weights_for(TransformerLM, config, sizes, str(self.path))
        model = TransformerLM(config)
        unused = {tensor.name for tensor in self._reader.tensors}
        tensors: dict[str, Tensor] = {}
        for name in model.state_dict():
            module, _, kind = name.rpartition(".")
            if config.tie_embeddings and module == "lm_head":
                continue
            layer, part = "", module
            if module.startswith("blocks."):
                _, layer, part = module.split(".", 2)
            if self.architecture == "gpt2" and part in FUSED:
                theirs = f"blk.{layer}.attn_qkv.{kind}"
                fused = self._read(theirs)
                if fused.shape[0] != 3 * config.d_model:
                    raise CheckpointError(f"{self.path} holds another model: {theirs} is {list(fused.shape)} there")
                tensors[name] = fused.chunk(3)[FUSED.index(part)]
            else:
                theirs = f"blk.{layer}.{LAYER[part]}.{kind}" if layer else f"{TOP[module]}.{kind}"
                tensors[name] = self._read(theirs)
                # One of another shape is left for load_into to name.
                if self.architecture == "llama" and part in FUSED[:2] and len(tensors[name]) % config.head_dim == 0:
                    tensors[name] = to_halves(tensors[name], config.head_dim)
            unused.discard(theirs)
        if unused:
            raise CheckpointError(
                f"{self.path} holds tensors that this {self.architecture} does not have, {min(unused)!r} among them"
            )
        load_into(model, tensors, source=str(self.path))
        return model.eval()

    def tokenizer(self) -> BPETokenizer:
        """The tokenizer.

        Raises:
            UserError: it is of a kind that is not read from GGUF files.
        """
        kind, cut = self._value("tokenizer.ggml.model"), self._value("tokenizer.ggml.pre", "default")
        if kind != "gpt2" or cut not in CUT_NAMES:
            raise UserError(
                f"the tokenizer in {self.path} (model {kind!r}, cut {cut!r}) is not read from GGUF files",
                hint="name the folder of its tokenizer as well (--tokenizer FOLDER)",
            )
        tokens, kinds = self._value("tokenizer.ggml.tokens"), self._value("tokenizer.ggml.token_type")
        merges = self._value("tokenizer.ggml.merges", [])
        if not (_are(tokens, str) and _are(kinds, int) and _are(merges, str) and len(tokens) == len(kinds)):
            raise self._damaged("its tokens, their kinds or its merges are missing")
        # Unused tokens at the end pad the embedding; they are no part of the tokenizer.
        while kinds and kinds[-1] == UNUSED:
            tokens, kinds = tokens[:-1], kinds[:-1]
        special = {text: index for index, (text, sort) in enumerate(zip(tokens, kinds)) if sort == CONTROL}
        pairs = [merge.split(" ") for merge in merges]
        roles = {}
        for role in ("bos", "eos", "padding"):
            number = self._value(f"tokenizer.ggml.{role}_token_id")
            if number is not None and not (isinstance(number, int) and 0 <= number < len(tokens)):
                raise self._damaged(f"the {role} token is {number!r}, and there are {len(tokens):,} tokens")
            roles[f"{role.removesuffix('ding')}_token"] = None if number is None else tokens[number]
        try:
            vocabulary = BPEVocabulary(
                pattern=CUT_NAMES[cut],
                merges=[(unprintable(left), unprintable(right)) for left, right in pairs],
                ids={unprintable(text): index for index, text in enumerate(tokens) if text not in special},
                special_tokens=special,
                **roles,
            )
        except (KeyError, ValueError, DataError) as error:
            raise CorruptionError(f"the tokenizer in {self.path} makes no sense: {error}") from None
        return BPETokenizer(vocabulary)

    def _rows(self, name: str) -> int:
        shape = self._tensor(name).shape
        if len(shape) != 2:
            raise self._damaged(f"{name} has {len(shape)} dimensions")
        return int(shape[1])

    def _tensor(self, name: str) -> Any:
        for tensor in self._reader.tensors:
            if tensor.name == name:
                return tensor
        raise CheckpointError(f"{self.path} holds no tensor {name!r}: it is another model, or not whole")

    def _read(self, name: str) -> Tensor:
        """A tensor in float32, (out, in)."""
        tensor = self._tensor(name)
        found = tensor.tensor_type.name
        if found not in FORMATS:
            raise CheckpointError(
                f"{self.path}: {name} is in the format {found}, and only {', '.join(FORMATS)} are read",
                hint="import the model before it was quantised",
            )
        values = self._gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        # The file counts dimensions from the fastest on.
        return torch.from_numpy(np.array(values, dtype=np.float32)).view(*map(int, reversed(tensor.shape)))


def _are(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _short(value: float) -> float:
    """1e-5 from the float32 nearest to it, which is what the file holds."""
    return float(f"{value:.7g}")
