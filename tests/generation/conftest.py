"""A tokenizer of single bytes, and tiny models with random weights that nevertheless write varied text.

A random model with tied embeddings repeats its last token for ever, and small weights leave no preferences at all;
either would make "equal to" an empty claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_trainer.config import ModelConfig
from llm_trainer.models import TransformerLM
from llm_trainer.tokenizer.base import Tokenizer, as_id_list
from llm_trainer.tokenizer.pretokenize import replace_surrogates

END = 256


class ByteTokenizer(Tokenizer):
    """Ids 0 to 255 are bytes, 256 is ``<|endoftext|>``: every multi-byte character spans several tokens."""

    bos_token = eos_token = pad_token = "<|endoftext|>"

    vocab_size = 257
    special_tokens = {"<|endoftext|>": END}

    def _encode_plain(self, text: str) -> list[int]:
        return list(replace_surrogates(text).encode())

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        spelled = b"" if skip_special_tokens else b"<|endoftext|>"
        return b"".join(spelled if i == END else bytes([i]) for i in as_id_list(ids)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id == END else bytes([token_id])

    def save_pretrained(self, folder: str | Path) -> None:
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ByteTokenizer:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return "bytes"


class ScriptedModel(nn.Module):
    """Says ``script`` after whatever prompt: at position t it is sure of the token that belongs at t + 1."""

    def __init__(self, script: Sequence[int], prompt_length: int, vocab_size: int = 257) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.script, self.prompt_length, self.vocab_size = list(script), prompt_length, vocab_size

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, self.vocab_size)
        for position in range(input_ids.shape[1]):
            index = position + 1 - self.prompt_length
            if 0 <= index < len(self.script):
                logits[:, position, self.script[index]] = 100.0
        return SimpleNamespace(logits=logits)


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def make_model() -> Callable[..., TransformerLM]:
    def make(seed: int = 0, sharpness: float = 8.0, **overrides: Any) -> TransformerLM:
        shape = {
            "vocab_size": 257,
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "tie_embeddings": False,
        }
        torch.manual_seed(seed)
        model = TransformerLM(ModelConfig(**{**shape, **overrides})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(sharpness)
        return model

    return make


@pytest.fixture
def scripted(tokenizer: ByteTokenizer) -> Callable[..., ScriptedModel]:
    """A model that answers ``prompt`` with ``text`` and then, by default, with end-of-text."""

    def make(prompt: str, text: str | bytes, end: bool = True) -> ScriptedModel:
        answer = list(text.encode() if isinstance(text, str) else text)
        return ScriptedModel([*answer, END] if end else answer, 1 + len(prompt.encode()))

    return make
