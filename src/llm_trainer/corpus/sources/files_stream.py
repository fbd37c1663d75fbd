"""Bytes of a file that may be damaged: what can be decompressed is given, what cannot is counted.

The twin of ``corpus.decoding``, which stops at the first wrong byte because a person is watching. Here a million files
are read by machines at night: a download that broke off gives all that arrived, and one count.
"""

from __future__ import annotations

import bz2
import codecs
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from llm_trainer.common.files import human_bytes
from llm_trainer.common.optional import require
from llm_trainer.config.base import Int, Settings
from llm_trainer.corpus.losses import Losses

BLOCK_BYTES = 1 << 20
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_COMPRESSED_NAMES = (*COMPRESSIONS, ".tgz")

# A bomb check below this size would only hit small, honest files of one repeated line.
_RATIO_CHECKED_ABOVE = 64 << 20
# Zstandard's decompressor has no bound on one call's output, and a run of equal bytes shrinks 32,768-fold (128 KiB
# blocks of 4 bytes): 2 KiB in give at most 64 MiB out.
_ZST_STEP = 2 << 10
_GZIP = type(zlib.decompressobj())


class StreamLimits(Settings):
    """How far a compressed file may grow before it is taken for a bomb."""

    max_ratio: Int = 250
    """Decompressed bytes for a compressed one, judged above 64 MiB. Text shrinks 3- to 10-fold, logs up to 100-fold, a
    file of zeros 1000-fold with gzip."""
    max_decompressed_bytes: Int | None = None
    """Decompressed size of a file above which the rest of it is not read; None: no limit, because it is streamed."""


class Line(NamedTuple):
    """A line, or a stretch of one that is longer than the limit."""

    offset: int
    """Where its first byte stands in the decompressed file."""
    data: bytes
    """Without the line end."""
    first: bool
    """Whether the line begins here."""
    last: bool
    """Whether the line ends here."""


def format_name(path: Path) -> tuple[str, str]:
    """The endings that name format and compression: ``a.jsonl.gz`` -> ``.jsonl``, ``.gz``."""
    name = Path(path.name.lower())
    return (Path(name.stem).suffix, name.suffix) if name.suffix in COMPRESSIONS else (name.suffix, "")


def read_blocks(path: Path, losses: Losses, limits: StreamLimits | None = None, *, start: int = 0) -> Iterator[bytes]:
    """The bytes of a file, decompressed by its last suffix, in non-empty blocks of about a megabyte.

    Args:
        path: the file; ``.gz``, ``.bz2``, ``.xz`` and ``.zst`` may hold several members or frames.
        losses: gets ``unreadable``, ``damaged`` or ``decompression_bomb`` when a file gives less than it should.
        limits: when to take the file for a bomb.
        start: byte to begin at; only for files that are not compressed.
    """
    try:
        with path.open("rb") as file:
            suffix = path.suffix.lower()
            if suffix in _COMPRESSED_NAMES:
                yield from _decompressed(file, path, _decompressor(suffix), losses, limits or StreamLimits())
                return
            file.seek(start)
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        losses.add("unreadable", str(path), error.strerror or str(error))


def _decompressor(suffix: str) -> Callable[[], Any]:
    if suffix in (".gz", ".tgz"):
        return lambda: zlib.decompressobj(wbits=31)
    if suffix == ".bz2":
        return bz2.BZ2Decompressor
    if suffix == ".xz":
        return lzma.LZMADecompressor
    zstandard = require("zstandard", extra="data", purpose="reading .zst files")
    # Reddit's dumps are written with --long=31; the package refuses windows above 128 MiB unless told.
    return lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()


def _decompressed(
    file: Any, path: Path, new: Callable[[], Any], losses: Losses, limits: StreamLimits
) -> Iterator[bytes]:
    member: Any = None
    read = written = members = 0
    failures = [zlib.error, lzma.LZMAError, EOFError, OSError, ValueError]
    step = BLOCK_BYTES // 8
    if path.suffix.lower() == ".zst":
        failures.append(require("zstandard", extra="data", purpose="reading .zst files").ZstdError)
        step = _ZST_STEP
    collected: list[bytes] = []
    size = 0
    broken = ""
    while not broken and (compressed := file.read(step)):
        read += len(compressed)
        while compressed or (member is not None and not getattr(member, "needs_input", True)):
            member = member or new()
            try:
                block, compressed = _step(member, compressed)
            except tuple(failures) as error:
                # Padding behind the last member is common in tapes and breaks nothing.
                if members and not compressed.strip(b"\0"):
                    member = None
                    break
                broken = f"{error} near compressed byte {file.tell()}"
                member = None
                break
            if member.eof:
                members, member = members + 1, None
            if block:
                collected.append(block)
                size += len(block)
                written += len(block)
            if size >= BLOCK_BYTES:
                yield b"".join(collected)
                collected, size = [], 0
            if _is_bomb(read, written, limits):
                losses.add("decompression_bomb", str(path), f"{human_bytes(read)} became {human_bytes(written)}")
                return
    if collected:
        yield b"".join(collected)
    if member is not None and not broken:
        broken = "it ends in the middle of its compressed data"
    if broken:
        losses.add("damaged", str(path), broken)


def _step(member: Any, compressed: bytes) -> tuple[bytes, bytes]:
    """One bounded step of any of the four decompressors: what came out, and what is still to be put in."""
    if hasattr(member, "needs_input"):  # bz2, xz
        block = member.decompress(compressed, BLOCK_BYTES)
        return block, member.unused_data if member.eof else b""
    if isinstance(member, _GZIP):
        block = member.decompress(compressed, BLOCK_BYTES)
        return block, member.unused_data if member.eof else member.unconsumed_tail
    block = member.decompress(compressed)
    return block, member.unused_data if member.eof else b""


def _is_bomb(read: int, written: int, limits: StreamLimits) -> bool:
    if limits.max_decompressed_bytes is not None and written > limits.max_decompressed_bytes:
        return True
    return written > _RATIO_CHECKED_ABOVE and written > limits.max_ratio * read


def as_utf8(blocks: Iterable[bytes], encoding: str, path: Path, losses: Losses) -> Iterator[bytes]:
    """Blocks in UTF-8 whatever the encoding; UTF-8 itself passes as it is, wrong bytes included.

    Lines are cut at the byte 10, which UTF-16 and UTF-32 use for other things. A text in another encoding than UTF-8
    ends at its first wrong byte, with the reason ``"invalid_encoding"``.
    """
    if is_utf8(encoding):
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(encoding)(errors="strict")
    offset = 0
    for block in chain(blocks, [b""]):
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeError as error:
            good = max(0, error.start - held) if isinstance(error, UnicodeDecodeError) else 0
            if good:
                yield decoder.decode(block[:good]).encode("utf-8", "surrogatepass")
            detail = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
            losses.add("invalid_encoding", f"{path}:byte {offset + good}", f"not {encoding}: {detail}")
            return
        offset += len(block)
        if text:
            yield text.encode("utf-8", "surrogatepass")


def is_utf8(encoding: str) -> bool:
    """Whether this is a name of UTF-8, or of ASCII, which is a part of it."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")


def split_lines(blocks: Iterable[bytes], limit: int, *, offset: int = 0) -> Iterator[Line]:
    """The lines of a stream, in memory that depends on ``limit`` alone.

    A line longer than ``limit`` comes in stretches of at most ``limit`` bytes, cut behind a space where there is one in
    the last tenth, and never inside a UTF-8 sequence. ``\\r\\n`` and ``\\n`` end a line.

    Args:
        blocks: the bytes.
        limit: longest stretch, in bytes.
        offset: where the first block stands in the file.
    """
    held = bytearray()  # the beginning of a line whose end has not come yet
    first = True
    for block in blocks:
        begin = 0
        while True:
            end = block.find(b"\n", begin)
            held += block[begin : len(block) if end < 0 else end]
            while len(held) > limit:
                cut = _cut_place(held, limit)
                yield Line(offset, bytes(held[:cut]), first, False)
                del held[:cut]
                offset, first = offset + cut, False
            if end < 0:
                break
            yield Line(offset, bytes(held).removesuffix(b"\r"), first, True)
            offset += len(held) + 1
            held.clear()
            first, begin = True, end + 1
    if held or not first:
        yield Line(offset, bytes(held), first, True)


def _cut_place(held: bytearray, limit: int) -> int:
    space = held.rfind(b" ", limit - limit // 10, limit) + 1
    if space:
        return space
    cut = limit
    while cut > limit - 4 and cut > 1 and held[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut


def lines_of_part(
    path: Path, losses: Losses, limit: int, limits: StreamLimits, encoding: str, bounds: tuple[int, int] | None
) -> Iterator[Line]:
    """The lines that begin inside a stretch of bytes; all parts of a file together give every line once.

    Args:
        path: the file.
        losses: see :func:`read_blocks`.
        limit: see :func:`split_lines`.
        limits: see :func:`read_blocks`.
        encoding: only UTF-8 can be read from the middle: of another encoding, or of a compressed file, the part that
            begins at 0 gives everything and all others nothing.
        bounds: first byte and the one behind the last; None is the whole file.
    """
    start, stop = bounds or (0, None)
    if bounds and (path.suffix.lower() in COMPRESSIONS or not is_utf8(encoding)):
        if start:
            return
        stop = None
    # One byte early: a line begins at `start` only if the byte before it ends a line.
    blocks = as_utf8(read_blocks(path, losses, limits, start=max(0, start - 1)), encoding, path, losses)
    skipping = start > 0
    for line in split_lines(blocks, limit, offset=max(0, start - 1)):
        if skipping:
            skipping = not line.last
            continue
        if stop is not None and line.first and line.offset >= stop:
            return
        if line.offset == 0 and line.data.startswith(codecs.BOM_UTF8):
            line = line._replace(data=line.data[3:])
        yield line
