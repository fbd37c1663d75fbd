"""The simplest tokenizer there is: a byte is a token, and 256 ends a document."""

from __future__ import annotations

import numpy as np


class ByteTokenizer:
    vocab_size = 257
    eos_token = "<|endoftext|>"
    eos_token_id = bos_token_id = pad_token_id = 256
    special_tokens = {"<|endoftext|>": 256}

    def encode(self, text: str, **options: object) -> list[int]:
        return list(text.encode("utf-8"))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return bytes(token for token in ids if token < 256).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def token_byte_lengths(self) -> np.ndarray:
        return np.array([1] * 256 + [0])

    def fingerprint(self) -> str:
        return "bytes"
