"""The bytes of a dump: bz2 streams between two offsets, or plain XML, always as UTF-8."""

from __future__ import annotations

import bz2
import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.kinds import Part

_BLOCK = 1 << 20
_COMPRESSED_BLOCK = 1 << 17
_WINDOW = 64 << 20
"""How far to look for the beginning of a stream: one of a hundred articles has a megabyte, seldom more than ten."""

# A bz2 stream begins with "BZh", the size of its blocks, and the first block's number: 48 fixed bits of pi. That these
# ten bytes arise by chance inside compressed data is as likely as guessing a key of 77 bits.
_STREAM = re.compile(rb"BZh[1-9]1AY&SY")
_DECLARED = re.compile(rb"<\?xml[^>]*encoding=[\"']([\w.-]+)[\"']")


def find_borders(path: Path, part_bytes: int) -> list[int]:
    """Offsets where a stream of a multistream file begins, each at least ``part_bytes`` after the one before.

    Empty for files that are not .bz2, or have one stream.
    """
    if not path.name.lower().endswith(".bz2"):
        return []
    size = path.stat().st_size
    borders: list[int] = []
    with path.open("rb") as file:
        wanted = part_bytes
        while 0 < wanted < size:
            border = _next_stream(file, wanted)
            if border is None:
                break
            borders.append(border)
            wanted = border + max(part_bytes, 1)
    return borders


def _next_stream(file: BinaryIO, offset: int) -> int | None:
    file.seek(offset)
    window = b""
    position, end = offset, offset + _WINDOW
    while position < end and (block := file.read(_BLOCK)):
        window += block
        found = _STREAM.search(window)
        if found:
            return position + found.start()
        position += len(window) - 9
        window = window[-9:]
    return None


def is_utf8(path: Path) -> bool:
    """Whether a dump is in UTF-8, as all that Wikimedia publishes are."""
    for _, block in _raw_blocks(path, None, Losses()):
        return _decoder(block) is None
    return True


def utf8_blocks(path: Path, part: Part | None, losses: Losses) -> Iterator[tuple[str, bytes]]:
    """The decompressed bytes of a dump, or of a part of it.

    Args:
        path: .xml, .xml.gz or .xml.bz2.
        part: the offsets in a .bz2 file where streams begin and end; None is the whole file.
        losses: receives ``damaged``, ``truncated`` and ``unreadable``; reading goes on at the next stream, if there is.

    Yields:
        A place for people, and a block.
    """
    decoder: codecs.IncrementalDecoder | None = None
    first = True
    try:
        for offset, block in _raw_blocks(path, part, losses):
            if first:
                decoder, first = _decoder(block), False
            if decoder:
                block = decoder.decode(block).encode("utf-8", "replace")
            yield f"{path.name}:{offset}", block
    except OSError as error:
        losses.add("unreadable", path.name, error.strerror or str(error))


def _decoder(block: bytes) -> codecs.IncrementalDecoder | None:
    """None for UTF-8, which is passed on as it is, so that the parser of a page sees what is wrong with it."""
    if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return codecs.getincrementaldecoder("utf-16")("replace")
    declared = _DECLARED.match(block[:200].lstrip())
    name = declared[1].decode("ascii").lower() if declared else "utf-8"
    if name in {"utf-8", "utf8", "us-ascii", "ascii"}:
        return None
    try:
        return codecs.getincrementaldecoder(name)("replace")
    except LookupError:
        return None  # the pages that need it will be invalid


def _raw_blocks(path: Path, part: Part | None, losses: Losses) -> Iterator[tuple[int, bytes]]:
    name = path.name.lower()
    with path.open("rb") as file:
        if name.endswith(".bz2"):
            yield from _bz2_blocks(file, path.name, part, losses)
        elif name.endswith(".gz"):
            yield from _gzip_blocks(file, path.name, losses)
        else:
            offset = 0
            while block := file.read(_BLOCK):
                yield offset, block
                offset += len(block)


def _gzip_blocks(file: BinaryIO, name: str, losses: Losses) -> Iterator[tuple[int, bytes]]:
    with gzip.GzipFile(fileobj=file) as stream:
        while True:
            try:
                block = stream.read1(_BLOCK)
            except EOFError:
                losses.add("truncated", f"{name}:{file.tell()}", "the gzip stream has no end")
                return
            except (gzip.BadGzipFile, zlib.error) as error:
                losses.add("damaged", f"{name}:{file.tell()}", str(error))
                return
            if not block:
                return
            yield file.tell(), block


def _bz2_blocks(file: BinaryIO, name: str, part: Part | None, losses: Losses) -> Iterator[tuple[int, bytes]]:
    """Stream after stream from ``part.start`` to ``part.stop``. Behind a damaged stream, go on with the next.

    The decompressor is asked for a megabyte at a time: 46 bytes of bz2 can hold a megabyte of zeros.
    """
    offset = part.start if part else 0
    stop = part.stop if part else None
    file.seek(offset)
    pending = b""
    decompressor: bz2.BZ2Decompressor | None = None
    started = offset
    while True:
        if not pending and (decompressor is None or decompressor.needs_input):
            size = _COMPRESSED_BLOCK if stop is None else min(_COMPRESSED_BLOCK, stop - offset)
            pending = file.read(size) if size > 0 else b""
            offset += len(pending)
            if not pending:
                break
        if decompressor is None:
            started = offset - len(pending)
            decompressor = bz2.BZ2Decompressor()
        try:
            block = decompressor.decompress(pending, _BLOCK)
        except OSError as error:
            losses.add("damaged", f"{name}:{started}", f"bz2 stream: {error}")
            border = _next_stream(file, started + 1)
            if border is None or (stop is not None and border >= stop):
                return
            file.seek(border)
            offset, pending, decompressor = border, b"", None
            continue
        pending = b""
        if decompressor.eof:
            pending, decompressor = decompressor.unused_data, None
        if block:
            yield started, block
    if decompressor is not None:
        losses.add("truncated", f"{name}:{started}", "the bz2 stream has no end")
