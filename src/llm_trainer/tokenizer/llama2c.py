"""``tokenizer.bin`` of llama2.c (github.com/karpathy/llama2.c): a vocabulary that a small C program reads.

Layout, little-endian: the length of the longest token (uint32), then for each id its score (float32), its length in
bytes (uint32) and its bytes. ``▁`` is written as a space, and the start and end tokens stand between line ends. The
program finds bytes at ids 3 to 258 and joins neighbours by score, so only a SentencePiece BPE model laid out like
Llama's means the same there.
"""

from __future__ import annotations

import struct
from pathlib import Path

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.common.files import write_bytes
from llm_trainer.tokenizer.base import Tokenizer
from llm_trainer.tokenizer.sentencepiece import SentencePieceTokenizer
from llm_trainer.tokenizer.sentencepiece_model import BPE, CONTROL, SPACE

_FIRST_BYTE = 3


def write_llama2c(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write a tokenizer for llama2.c.

    Raises:
        UserError: the program could not encode with it as we do: it is not a SentencePiece BPE model with start token
            1, end token 2 and bytes at 3 to 258; or the file cannot be written.
    """
    if not isinstance(tokenizer, SentencePieceTokenizer) or tokenizer.model.model_type != BPE:
        raise UserError(
            f"llama2.c cannot encode with a {type(tokenizer).__name__} of this kind",
            hint="its tokenizer.bin holds a SentencePiece BPE model, such as Llama 2's",
        )
    pieces = tokenizer.model.pieces
    bytes_in_place = all(tokenizer.model.ids.get(f"<0x{byte:02X}>") == _FIRST_BYTE + byte for byte in range(256))
    if (tokenizer.bos_token_id, tokenizer.eos_token_id) != (1, 2) or not bytes_in_place:
        raise UserError("llama2.c needs the start token at id 1, the end token at 2 and the 256 bytes from 3 on")
    tokens = []
    for piece in pieces:
        text = f"\n{piece.text}\n" if piece.kind == CONTROL else piece.text
        tokens.append((piece.score, text.replace(SPACE, " ").encode("utf-8")))
    longest = max(len(data) for _, data in tokens)
    entries = [struct.pack("<fI", score, len(data)) + data for score, data in tokens]
    write_bytes(path, struct.pack("<I", longest) + b"".join(entries))


def read_llama2c(path: str | Path) -> list[tuple[bytes, float]]:
    """The tokens of a ``tokenizer.bin`` with their scores, in the order of their ids.

    Raises:
        DataError: the file cannot be read.
        CorruptionError: it is cut off or of another kind.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
    damaged = CorruptionError(f"{path} is not a sound tokenizer.bin of llama2.c", hint="copy it again")
    if len(data) < 4:
        raise damaged
    (longest,) = struct.unpack_from("<I", data)
    tokens: list[tuple[bytes, float]] = []
    position = 4
    while position < len(data):
        if position + 8 > len(data):
            raise damaged
        score, size = struct.unpack_from("<fI", data, position)
        position += 8
        if size > longest or position + size > len(data):
            raise damaged
        tokens.append((data[position : position + size], score))
        position += size
    if not tokens or max(len(token) for token, _ in tokens) != longest:
        raise damaged
    return tokens
