"""A chunk: one file of packed sequences, in small blocks that are compressed and checked one by one.

Layout (little-endian)::

    header    fixed fields: magic, version, sizes, dtype, codec, sequence length, counts
    metadata  JSON: what the tokens were made from (configuration, source, number of the unit)
    table     for every block: offset, stored size, raw size, xxh3-64 of the stored bytes
    checksum  xxh3-128 of all of the above
    blocks    16 sequences each: pieces per sequence, length of every piece, tokens (no padding)

The checksum covers the table and the table covers the blocks, so it stands for every byte of the file. Sixteen
sequences a block is the measured balance: LZ4 saves a third to two fifths of uint16, as with huge blocks, and a
shuffled read stays above 50 M tokens/s, where blocks of 256 sequences fall below 4 M.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.files import write_bytes
from llm_trainer.common.hashing import hash_bytes
from llm_trainer.data.codecs import BY_NUMBER, CODECS

TokenArray: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
LengthArray: TypeAlias = npt.NDArray[np.uint32]

SEQUENCES_PER_BLOCK = 16
VERSION = 1
# A file that went through a text-mode transfer loses the "\r\n" and is recognised by it, as in PNG.
_MAGIC = b"LLMTPK\r\n"
# magic, version, metadata bytes, blocks, token bytes, codec, sequence length, sequences per block,
# sequences, documents, text bytes, tokens in, tokens
_HEADER = struct.Struct("<8sIIIIIIIQQQQQ")
_TABLE = np.dtype([("offset", "<u8"), ("stored", "<u4"), ("raw", "<u4"), ("hash", "<u8")])
_CHECKSUM_BYTES = 16
REPACK_HINT = "make just what is damaged again, from its text: llm-trainer data pack ... --mode inverse"


class PackedSequence(NamedTuple):
    """One row of the cache: its real tokens, and where its pieces end."""

    tokens: TokenArray
    """(at most seq_len,) uint16 or uint32."""
    piece_lengths: LengthArray
    """(pieces,); the sum is ``len(tokens)``. Every piece is (a part of) another document."""


@dataclass(frozen=True)
class ChunkInfo:
    """What is known of a chunk without its tokens.

    Attributes:
        file: name within the cache folder.
        sequences: packed rows.
        documents: documents that the rows were packed from.
        text_bytes: UTF-8 bytes of the documents.
        tokens_in: tokens that the documents became, begin and end markers included.
        tokens: tokens in the rows; equal to ``tokens_in``, unless a packer loses some.
        bytes: size of the file.
        hash: xxh3-128 that stands for every byte of the file.
    """

    file: str
    sequences: int
    documents: int
    text_bytes: int
    tokens_in: int
    tokens: int
    bytes: int
    hash: str


def token_dtype(vocab_size: int) -> str:
    """``"uint16"`` where all token numbers fit it (vocabularies up to 65,536), else ``"uint32"``."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def write_chunk(
    path: Path,
    sequences: Sequence[PackedSequence],
    *,
    seq_len: int,
    dtype: str,
    codec: str,
    documents: int,
    text_bytes: int,
    tokens_in: int,
    metadata: Mapping[str, Any],
) -> ChunkInfo:
    """Write a chunk, atomically. Equal arguments give equal bytes.

    Args:
        path: the file to make or replace.
        sequences: the rows, at least one, in order.
        seq_len: the most tokens a row may have.
        dtype: ``"uint16"`` or ``"uint32"``.
        codec: ``"lz4"``, ``"zstd"`` or ``"none"``.
        documents: how many documents the rows were made from.
        text_bytes: their size as UTF-8.
        tokens_in: how many tokens they became before packing.
        metadata: JSON-like data about the origin of the tokens, returned by :attr:`ChunkReader.metadata`.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    meta = json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    blocks: list[bytes] = []
    table = np.zeros(-(-len(sequences) // SEQUENCES_PER_BLOCK), dtype=_TABLE)
    offset = _HEADER.size + len(meta) + table.nbytes + _CHECKSUM_BYTES
    for index in range(len(table)):
        raw = _join_block(sequences[index * SEQUENCES_PER_BLOCK : (index + 1) * SEQUENCES_PER_BLOCK], dtype)
        stored = CODECS[codec].compress(raw)
        table[index] = (offset, len(stored), len(raw), xxhash.xxh3_64_intdigest(stored))
        offset += len(stored)
        blocks.append(stored)
    tokens = sum(len(sequence.tokens) for sequence in sequences)
    fixed = (_MAGIC, VERSION, len(meta), len(table), np.dtype(dtype).itemsize, CODECS[codec].number, seq_len)
    counts = (len(sequences), documents, text_bytes, tokens_in, tokens)
    head = _HEADER.pack(*fixed, SEQUENCES_PER_BLOCK, *counts) + meta + table.tobytes()
    checksum = hash_bytes(head)
    write_bytes(path, b"".join((head, bytes.fromhex(checksum), *blocks)))
    return ChunkInfo(path.name, *counts, offset, checksum)


def _join_block(sequences: Sequence[PackedSequence], dtype: str) -> bytes:
    counts = np.array([len(sequence.piece_lengths) for sequence in sequences], dtype="<u4")
    lengths = np.concatenate([sequence.piece_lengths for sequence in sequences]).astype("<u4")
    tokens = np.concatenate([sequence.tokens for sequence in sequences]).astype(np.dtype(dtype).newbyteorder("<"))
    return counts.tobytes() + lengths.tobytes() + tokens.tobytes()


class Block:
    """Up to 16 sequences, decompressed. ``block[i]`` is sequence i as views into one buffer."""

    def __init__(self, raw: bytes | memoryview, sequences: int, token_bytes: int) -> None:
        counts = np.frombuffer(raw, "<u4", sequences)
        self._piece_bounds = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        pieces = int(self._piece_bounds[-1])
        self._piece_lengths = np.frombuffer(raw, "<u4", pieces, 4 * sequences)
        self._tokens = np.frombuffer(raw, f"<u{token_bytes}", offset=4 * (sequences + pieces))
        ends = np.concatenate(([0], np.cumsum(self._piece_lengths, dtype=np.int64)))
        self._token_bounds = ends[self._piece_bounds]
        self.nbytes = len(raw)

    def __len__(self) -> int:
        return len(self._piece_bounds) - 1

    @property
    def tokens(self) -> TokenArray:
        """Tokens of all sequences of the block, end to end."""
        return self._tokens

    @property
    def piece_lengths(self) -> LengthArray:
        """Tokens in each piece of all sequences of the block, in order."""
        return self._piece_lengths

    def __getitem__(self, index: int) -> PackedSequence:
        tokens = self._tokens[self._token_bounds[index] : self._token_bounds[index + 1]]
        lengths = self._piece_lengths[self._piece_bounds[index] : self._piece_bounds[index + 1]]
        return PackedSequence(tokens, lengths)


class ChunkReader:
    """A chunk file, memory-mapped. Opening checks header and table; reading a block checks that block.

    Raises:
        CorruptionError: the file is shorter or longer than it was, or its bytes differ; the message names the file
            and the block.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise CorruptionError(f"{path} is missing", hint=REPACK_HINT) from None
        except ValueError:  # an empty file cannot be mapped
            raise CorruptionError(f"{path} is empty", hint=REPACK_HINT) from None
        except PermissionError:
            raise DataError(f"no permission to read {path}") from None
        self._view = memoryview(self._map)
        if len(self._view) < _HEADER.size or self._view[: len(_MAGIC)] != _MAGIC:
            raise CorruptionError(f"{path} is not a chunk of packed tokens, or its header is damaged", hint=REPACK_HINT)
        fields = _HEADER.unpack_from(self._view)
        _, version, meta_bytes, blocks, self._token_bytes, self._codec, self.seq_len = fields[:7]
        self._per_block, sequences, documents, text_bytes, tokens_in, tokens = fields[7:]
        if version != VERSION:
            raise CorruptionError(
                f"{path} has format version {version}, this program reads version {VERSION}; or its header is damaged",
                hint=REPACK_HINT,
            )
        table_at = _HEADER.size + meta_bytes
        head_end = table_at + blocks * _TABLE.itemsize
        checksum = bytes(self._view[head_end : head_end + _CHECKSUM_BYTES])
        if checksum.hex() != hash_bytes(self._view[:head_end]):
            raise CorruptionError(f"{path}: the header or the block table is damaged (checksum)", hint=REPACK_HINT)
        self.metadata: dict[str, Any] = json.loads(bytes(self._view[_HEADER.size : table_at]))
        # A copy, as of the blocks: what is left mapped could be cut off by another program at any time.
        self._table: npt.NDArray[np.void] = np.frombuffer(self._view, _TABLE, blocks, table_at).copy()
        size = int(self._table["offset"][-1]) + int(self._table["stored"][-1])
        if len(self._view) != size:
            found = f"{len(self._view):,} bytes instead of {size:,}"
            raise CorruptionError(f"{path} is truncated or has something appended: {found}", hint=REPACK_HINT)
        self.info = ChunkInfo(path.name, sequences, documents, text_bytes, tokens_in, tokens, size, checksum.hex())

    def __len__(self) -> int:
        return self.info.sequences

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self._table)

    def block_starts(self) -> npt.NDArray[np.int64]:
        """The first sequence of each block. (blocks,)"""
        return np.arange(0, len(self), self._per_block, dtype=np.int64)

    def block(self, index: int) -> Block:
        """Decompress one block after checking its bytes.

        Raises:
            CorruptionError: the bytes are not the ones that were written.
        """
        offset, stored_size, raw_size, expected = self._table[index].tolist()
        if self._map.size() < offset + stored_size:  # reading beyond the end of a mapped file ends the process
            raise CorruptionError(f"{self.path} was truncated while it was being read", hint=REPACK_HINT)
        stored = self._view[offset : offset + stored_size]
        if xxhash.xxh3_64_intdigest(stored) != expected:
            raise CorruptionError(
                f"{self.path}: block {index} of {self.blocks} is damaged (checksum)", hint=REPACK_HINT
            )
        raw = BY_NUMBER[self._codec].decompress(stored, raw_size)
        sequences = min(self._per_block, len(self) - index * self._per_block)
        return Block(raw, sequences, self._token_bytes)

    def verify(self) -> None:
        """Check every block.

        Raises:
            CorruptionError: naming the first damaged block.
        """
        tokens = sum(len(self.block(index).tokens) for index in range(self.blocks))
        if tokens != self.info.tokens:
            raise CorruptionError(f"{self.path} holds {tokens:,} tokens, its header says {self.info.tokens:,}")
