"""Bytes on disk to decoded text, a block at a time: compression, encodings, line ends.

A file is never read at once, so a 1 GB text costs a few megabytes. Bytes that do not decode are an error that names the
file and the offset: replacement characters would be learnt by the model as if a person had written them.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import importlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.optional import available

BLOCK_BYTES = 1 << 20
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")

_WIDE_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class BinaryFileError(DataError):
    """The file holds no text at all."""


class EncodingError(DataError):
    """The file holds text in another encoding."""


def decoded_blocks(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """The text of a file (decompressed if its name says so) in blocks of about a megabyte.

    A byte order mark is dropped; ``\\r\\n`` and ``\\r`` become ``\\n``.

    Args:
        path: the file.
        encoding: any codec that Python knows.

    Raises:
        BinaryFileError: it contains NUL bytes.
        EncodingError: it is not in this encoding; the message has the byte offset and the remedy.
        CorruptionError: the compressed data is damaged or ends early.
    """
    decoder = _incremental_decoder(encoding)
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
    offset = 0
    # The empty block at the end lets both decoders complain about, or give out, what they still hold.
    for block in chain(binary_blocks(path), [b""]):
        if not wide:
            _refuse_binary(path, block, offset)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _wrong_encoding(path, encoding, error, offset - pending + error.start) from None
        except UnicodeError as error:  # utf-16 without its byte order mark and the like
            raise EncodingError(f"{path} is not valid {encoding}: {error}") from None
        yield newlines.decode(text, final=not block)
        offset += len(block)


def decoded_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """The lines of a file, each with its ``\\n`` (the last one perhaps without). Raises like :func:`decoded_blocks`."""
    unfinished: list[str] = []
    for block in decoded_blocks(path, encoding):
        # Not str.splitlines: it also splits at U+2028 and form feeds, which are legal inside JSON strings and prose.
        *lines, rest = block.split("\n")
        for line in lines:
            yield "".join([*unfinished, line, "\n"])
            unfinished.clear()
        if rest:
            unfinished.append(rest)
    if unfinished:
        yield "".join(unfinished)


def binary_blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, decompressed by its last suffix, in non-empty blocks.

    Raises:
        CorruptionError: the compressed data is damaged or ends early.
        DataError: the operating system refuses, or the package for ``.zst`` is missing.
    """
    try:
        suffix = path.suffix.lower()
        if suffix == ".zst":
            yield from _zstandard_blocks(path)
            return
        with _OPENERS.get(suffix, open)(path, "rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if path.suffix.lower() == ".bz2" and error.errno is None:  # bz2 reports damage as a bare OSError
            raise _damaged(path, error) from None
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def _zstandard_blocks(path: Path) -> Iterator[bytes]:
    """Frame by frame: the package's own stream reader takes a file that was cut short for a complete one."""
    if not available("zstandard"):
        raise DataError(
            f"{path}: reading .zst files needs the package 'zstandard'",
            hint="pip install zstandard, or decompress the file first: zstd -d FILE",
        )
    zstandard = importlib.import_module("zstandard")
    frame: Any = None
    with path.open("rb") as file:
        # Text shrinks three- to tenfold, so small reads keep the decompressed blocks near BLOCK_BYTES.
        while compressed := file.read(BLOCK_BYTES // 8):
            while compressed:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    block = frame.decompress(compressed)
                except zstandard.ZstdError as error:
                    raise _damaged(path, error) from None
                compressed = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
                if block:
                    yield block
    if frame is not None:
        raise EOFError("it ends in the middle of a frame")


def _damaged(path: Path, error: Exception) -> CorruptionError:
    return CorruptionError(f"{path} is damaged: {error}", hint="copy or download it again")


def _incremental_decoder(encoding: str) -> codecs.IncrementalDecoder:
    try:
        name = codecs.lookup(encoding).name
        # "utf-8-sig" is UTF-8 that swallows a byte order mark if there is one.
        return codecs.getincrementaldecoder("utf-8-sig" if name == "utf-8" else name)(errors="strict")
    except LookupError:
        raise DataError(
            f"there is no text encoding called {encoding!r}", hint="for example: utf-8, latin-1, utf-16, shift_jis"
        ) from None


def _refuse_binary(path: Path, block: bytes, offset: int) -> None:
    if offset == 0 and block[:2] in _WIDE_MARKS:
        wanted = _WIDE_MARKS[block[:2]]
        raise EncodingError(f"{path} is in {wanted}, by its byte order mark", hint=f"say data.encoding={wanted}")
    position = block.find(b"\0")
    if position >= 0:
        raise BinaryFileError(
            f"{path} is not a text file: it has a NUL byte at offset {offset + position}",
            hint="name text, .json, .jsonl, .csv, .tsv or .parquet files; for UTF-16 say data.encoding=utf-16",
        )


def _wrong_encoding(path: Path, encoding: str, error: UnicodeDecodeError, offset: int) -> EncodingError:
    byte = error.object[error.start]
    return EncodingError(
        f"{path} is not valid {encoding}: byte 0x{byte:02x} at offset {offset} ({error.reason})",
        hint="if you know its encoding, say it, for example data.encoding=latin-1; otherwise convert it to UTF-8",
    )
