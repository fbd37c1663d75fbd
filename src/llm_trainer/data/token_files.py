"""Token files of other trainers, both ways: nanoGPT's ``.bin`` and Megatron's ``.bin`` with ``.idx``.

A cache keeps whole documents where they fit into a sequence, and pieces of the longer ones. What is exported are these
pieces, in the order of the cache: nothing is lost, and a trainer that cuts the stream anywhere does not notice.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.common.files import atomic_write, require_free_space
from llm_trainer.common.hashing import hash_file
from llm_trainer.common.leases import lease
from llm_trainer.data.cache import TokenCache
from llm_trainer.data.chunk import TokenArray
from llm_trainer.data.manifest import MANIFEST, Manifest, Origin, PackConfig
from llm_trainer.data.mixture import tokens_of
from llm_trainer.data.packing import IntArray
from llm_trainer.data.plan import PLAN, Plan
from llm_trainer.data.units import write_unit

FORMATS = ("nanogpt", "megatron")
UNIT_TOKENS = 2_000_000

# Megatron's index: magic, version, code of the number type, sequences, documents + 1; then sizes, offsets, documents.
_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
_CODES = {"uint16": 8, "uint32": 4}


def export_tokens(cache: TokenCache, target: str | Path, file_format: str) -> list[Path]:
    """Write all tokens of a cache for another trainer.

    Args:
        cache: a finished one.
        target: the ``.bin`` file; Megatron's index goes beside it.
        file_format: ``"nanogpt"`` (uint16, one stream) or ``"megatron"`` (every piece is a document).

    Returns:
        The files written.

    Raises:
        UserError: the format is unknown or cannot hold these tokens, or there is no space.
    """
    _check_format(file_format)
    path, dtype = Path(target), cache.manifest.origin.config.dtype
    if file_format == "nanogpt" and dtype != "uint16":
        raise UserError(
            f"nanoGPT's files hold numbers below 65,536, and this vocabulary has "
            f"{cache.manifest.origin.config.vocab_size:,} tokens",
            hint="export to megatron, which has 32-bit files",
        )
    stored = np.dtype("<u2" if dtype == "uint16" else "<i4")
    require_free_space(path.parent, tokens_of(cache) * stored.itemsize + (1 << 20), purpose=str(path))
    sizes: list[IntArray] = []
    with atomic_write(path) as file:
        for block in cache.scan():
            file.write(block.tokens.astype(stored).tobytes())
            sizes.append(block.piece_lengths.astype(np.int64))
    if file_format == "nanogpt":
        return [path]
    index = path.with_suffix(".idx")
    lengths = np.concatenate(sizes)
    offsets = (np.cumsum(lengths) - lengths) * stored.itemsize
    with atomic_write(index) as file:
        file.write(_HEADER.pack(_MAGIC, 1, _CODES[dtype], len(lengths), len(lengths) + 1))
        file.write(lengths.astype("<i4").tobytes() + offsets.astype("<i8").tobytes())
        file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())
    return [path, index]


@dataclass(frozen=True)
class TokenFile:
    """A file of tokens, memory-mapped, and where its documents end.

    Attributes:
        path: of the ``.bin`` file.
        tokens: all of them. (tokens,)
        ends: one past the last token of each document. (documents,)
    """

    path: Path
    tokens: npt.NDArray[np.integer]
    ends: IntArray


def open_token_file(path: str | Path, file_format: str, *, end_id: int | None = None) -> TokenFile:
    """Open a file of another trainer.

    Args:
        path: the ``.bin`` file.
        file_format: ``"nanogpt"`` or ``"megatron"``.
        end_id: nanoGPT's files do not say where documents end; a token that ends each (``<|endoftext|>``) does. Left
            out, the file is one document.

    Raises:
        DataError: there is no such file.
        CorruptionError: it is not what it should be.
    """
    _check_format(file_format)
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if file_format == "nanogpt":
        if path.stat().st_size % 2 or not path.stat().st_size:
            raise CorruptionError(f"{path} is no file of 16-bit tokens: it has {path.stat().st_size:,} bytes")
        tokens = np.memmap(path, "<u2", mode="r")
        ends = np.array([len(tokens)]) if end_id is None else np.flatnonzero(tokens == end_id) + 1
        if not len(ends) or ends[-1] < len(tokens):
            ends = np.append(ends, len(tokens))
        return TokenFile(path, tokens, ends.astype(np.int64))
    return _open_megatron(path)


def _open_megatron(path: Path) -> TokenFile:
    index = path.with_suffix(".idx")
    if not index.is_file():
        raise DataError(f"{path} has no index {index.name} beside it")
    content = index.read_bytes()
    if len(content) < _HEADER.size or not content.startswith(_MAGIC):
        raise CorruptionError(f"{index} is no index of Megatron")
    _, version, code, sequences, documents = _HEADER.unpack_from(content)
    expected = _HEADER.size + 12 * sequences + 8 * documents
    if version != 1 or _TYPES.get(code) not in ("<u2", "<i4", "<i8", "<i2", "<u1") or len(content) < expected:
        raise CorruptionError(f"{index} is damaged, or of a kind that holds no tokens (version {version}, type {code})")
    sizes = np.frombuffer(content, "<i4", sequences, _HEADER.size).astype(np.int64)
    offsets = np.frombuffer(content, "<i8", sequences, _HEADER.size + 4 * sequences)
    bounds = np.frombuffer(content, "<i8", documents, _HEADER.size + 12 * sequences)
    tokens = np.memmap(path, _TYPES[code], mode="r")
    itemsize = tokens.dtype.itemsize
    if not np.array_equal(offsets, (np.cumsum(sizes) - sizes) * itemsize) or int(sizes.sum()) != len(tokens):
        raise CorruptionError(f"{path} and {index.name} do not belong together, or one of them is damaged")
    ends = np.cumsum(sizes)
    return TokenFile(path, tokens, ends[bounds[1:] - 1])


def import_tokens(
    source: TokenFile,
    folder: str | Path,
    *,
    tokenizer: str,
    vocab_size: int,
    seq_len: int,
    codec: str = "lz4",
) -> TokenCache:
    """Pack the tokens of another trainer's file into a cache.

    Args:
        source: the file.
        folder: of the new cache; it must not hold one.
        tokenizer: fingerprint of the tokenizer that the tokens are of.
        vocab_size: its size.
        seq_len: tokens of a sequence.
        codec: of the cache.

    Raises:
        DataError: the folder holds a cache, or a token is outside the vocabulary.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        raise DataError(f"{folder} holds a cache already", hint="choose another folder")
    config = PackConfig(tokenizer, vocab_size, seq_len, "bfd", codec, UNIT_TOKENS)
    origin = Origin(config, hash_file(source.path)[:16], f"tokens of {source.path.name}")
    # A unit ends with the document that reaches its size; a document longer than that is a unit of its own.
    numbers = np.searchsorted(np.arange(UNIT_TOKENS, int(source.ends[-1]), UNIT_TOKENS), source.ends, side="left")
    lasts = np.flatnonzero(np.diff(numbers, append=numbers[-1] + 1))
    firsts = np.concatenate(([0], lasts[:-1] + 1))
    starts = np.concatenate(([0], source.ends[:-1]))
    ranges = [(int(b - a + 1), int(source.ends[b] - starts[a])) for a, b in zip(firsts, lasts)]
    plan = Plan.of_ranges(origin, ranges)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / PLAN).exists() and Plan.read(folder) != plan:
        raise DataError(f"{folder} holds an unfinished cache of other text", hint="choose another folder")
    plan.write(folder)
    infos = []
    for unit, first, last in zip(plan.units, firsts.tolist(), lasts.tolist(), strict=True):
        piece = np.asarray(source.tokens[starts[first] : source.ends[last]])
        if int(piece.min()) < 0 or int(piece.max()) >= vocab_size:
            raise DataError(
                f"{source.path} holds token {int(piece.max())}, outside the vocabulary of {vocab_size:,}",
                hint="name the tokenizer that the file was made with",
            )
        lengths = np.diff(source.ends[first : last + 1], prepend=starts[first])
        tokens: TokenArray = piece.astype(config.dtype)
        path = plan.path(folder, unit)
        with lease(path):
            infos.append(write_unit(path, unit, tokens, lengths, origin, last=unit.number == len(plan.units) - 1))
    Manifest(origin, tuple(infos)).write(folder)
    return TokenCache.open(folder)


def _check_format(file_format: str) -> None:
    if file_format not in FORMATS:
        raise UserError(f"there is no token file format {file_format!r}", hint=f"use one of {', '.join(FORMATS)}")
