"""Reading a SentencePiece model (``tokenizer.model``) without the ``sentencepiece`` package.

The file is one protocol buffer, ``ModelProto`` of github.com/google/sentencepiece (src/sentencepiece_model.proto): a
list of pieces with scores and kinds, how the model was trained, and how text is normalised. The wire format
(protobuf.dev/programming-guides/encoding) is five rules, and a dozen fields matter, so the package that would read it
is not needed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from llm_trainer.common.errors import CorruptionError, DataError, UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
_OTHER_KINDS = {3: "word", 4: "char"}
SPACE = "▁"  # U+2581, how pieces write a space
_MOST_PIECES = 4_000_000


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its position."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What a ``tokenizer.model`` says. Fields have the names and defaults of the format."""

    data: bytes
    """The file itself."""
    pieces: list[Piece]
    model_type: int
    byte_fallback: bool
    treat_whitespace_as_suffix: bool
    bos_piece: str
    eos_piece: str
    pad_piece: str
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    ids: dict[str, int] = field(repr=False)
    unk_id: int


def read_model(path: str | Path) -> SentencePieceModel:
    """Read and check a file.

    Raises:
        DataError: it cannot be read, or is of a kind (word, character) that is not supported.
        CorruptionError: it is not a SentencePiece model, or damaged.
    """
    path = Path(path)
    try:
        return parse_model(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="check the path") from None
    except CorruptionError as error:
        raise CorruptionError(
            f"{path} is not a sound SentencePiece model: {error.message}",
            hint="the file is damaged or of another kind; copy it again",
        ) from None
    except UserError as error:
        raise DataError(f"{path}: {error.message}", hint=error.hint) from None


def parse_model(data: bytes) -> SentencePieceModel:
    """The model in the bytes of a file; raises as :func:`read_model`, without the name of the file."""
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value, len(pieces)))
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_fields(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(_fields(value))
        if len(pieces) > _MOST_PIECES:
            _damaged(f"it has more than {_MOST_PIECES:,} pieces")
    ids = _checked_ids(pieces)
    model_type = _integer(trainer, 3, UNIGRAM)
    if model_type not in (UNIGRAM, BPE):
        kind = _OTHER_KINDS.get(model_type, str(model_type))
        raise DataError(f"its model is of the kind {kind!r}", hint="only BPE and Unigram models can be loaded")
    if not _integer(normalizer, 5, 1):
        raise DataError("it does not escape white space (escape_whitespaces is off)", hint="such models are not read")
    byte_fallback = bool(_integer(trainer, 35, 0))
    if byte_fallback and not all(f"<0x{byte:02X}>" in ids for byte in range(256)):
        _damaged("it falls back to bytes but does not have all 256 of them")
    return SentencePieceModel(
        data=data,
        pieces=pieces,
        model_type=model_type,
        byte_fallback=byte_fallback,
        treat_whitespace_as_suffix=bool(_integer(trainer, 24, 0)),
        bos_piece=_string(trainer, 46, "<s>"),
        eos_piece=_string(trainer, 47, "</s>"),
        pad_piece=_string(trainer, 48, "<pad>"),
        charsmap=_bytes(normalizer, 2),
        add_dummy_prefix=bool(_integer(normalizer, 3, 1)),
        remove_extra_whitespaces=bool(_integer(normalizer, 4, 1)),
        ids=ids,
        unk_id=next(index for index, piece in enumerate(pieces) if piece.kind == UNKNOWN),
    )


def _piece(data: bytes, number: int) -> Piece:
    entry = dict(_fields(data))
    raw = entry.get(2, b"\0\0\0\0")
    if not isinstance(raw, bytes) or len(raw) != 4:
        _damaged(f"piece {number} has no score")
    score = struct.unpack("<f", raw)[0]
    piece = Piece(_string(entry, 1, ""), score, _integer(entry, 3, NORMAL))
    if not piece.text or not math.isfinite(score) or not NORMAL <= piece.kind <= BYTE:
        _damaged(f"piece {number} is {piece.text!r} with score {score} of kind {piece.kind}")
    if piece.kind == BYTE and not _is_byte(piece.text):
        _damaged(f"piece {number} should be a byte and is {piece.text!r}")
    return piece


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text in {f"<0x{byte:02X}>" for byte in range(256)}


def _checked_ids(pieces: list[Piece]) -> dict[str, int]:
    if not pieces:
        _damaged("it has no pieces")
    ids = {piece.text: index for index, piece in enumerate(pieces)}
    if len(ids) != len(pieces):
        twice = next(piece.text for index, piece in enumerate(pieces) if ids[piece.text] != index)
        _damaged(f"the piece {twice!r} is there twice")
    unknown = sum(piece.kind == UNKNOWN for piece in pieces)
    if unknown != 1:
        _damaged(f"it has {unknown} pieces for unknown text instead of one")
    return ids


# ---- the wire format ----


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in order: an integer for a varint, else the bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if number == 0:
            _damaged(f"field number 0 at byte {position}")
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            _damaged(f"wire type {wire} at byte {position}")
        if position + size > len(data):
            _damaged(f"it ends inside a field at byte {position}")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise CorruptionError(f"a number at byte {position} has no end")


def _integer(fields: dict[int, int | bytes], number: int, default: int) -> int:
    value = fields.get(number, default)
    if not isinstance(value, int):
        _damaged(f"field {number} is not a number")
    return value


def _bytes(fields: dict[int, int | bytes], number: int) -> bytes:
    value = fields.get(number, b"")
    if not isinstance(value, bytes):
        _damaged(f"field {number} is a number")
    return value


def _string(fields: dict[int, int | bytes], number: int, default: str) -> str:
    if number not in fields:
        return default
    try:
        return _bytes(fields, number).decode("utf-8")
    except UnicodeDecodeError:
        _damaged(f"field {number} is not UTF-8")


def _damaged(what: str) -> NoReturn:
    raise CorruptionError(what)
