"""Where a crawl archive goes on behind damage, and whether it was cut short."""

from __future__ import annotations

import re
import zlib
from typing import BinaryIO

_BLOCK = 1 << 20
_MEMBER = b"\x1f\x8b\x08"
# A record at the start of a line, and its first header, so that a page about WARC is not taken for one.
_RECORD = re.compile(rb"\nWARC/[01]\.\d+\r?\nWARC-", re.IGNORECASE)
_OVERLAP = 64
_LONGEST_HEAD = 1 << 16
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\nContent-Length:\s*(\d{1,18})\s*$", re.IGNORECASE | re.MULTILINE)


def is_gzip(file: BinaryIO) -> bool:
    """Whether an archive is compressed, by its first bytes: names are wrong now and then, and the reader looks too."""
    file.seek(0)
    return file.read(len(_MEMBER)) == _MEMBER


def next_record(file: BinaryIO, offset: int) -> int | None:
    """The offset of the next record at or behind ``offset``, or None.

    In a gzip file that is the next compressed member that begins with a record; in a plain one the next line that does.
    """
    compressed = is_gzip(file)
    position = max(offset - (0 if compressed else 1), 0)
    file.seek(position)
    window = b""
    while block := file.read(_BLOCK):
        window += block
        if compressed:
            for found in _member_starts(window):
                if _begins_with_record(window[found : found + 4096]):
                    return position + found
        else:
            match = _RECORD.search(window)
            if match:
                return position + match.start() + 1
        keep = 4096 if compressed else _OVERLAP
        position += max(len(window) - keep, 0)
        window = window[-keep:]
    return None


def open_end(file: BinaryIO, offset: int) -> int | None:
    """Whether an archive ends inside a record, as a broken download does.

    Args:
        file: the archive.
        offset: of the last record that was found; only it and what follows is looked at.

    Returns:
        The offset of that record, or None.
    """
    if is_gzip(file):
        return _open_member(file, offset)
    file.seek(offset)
    return _open_record(file, offset) if file.read(64).lstrip().startswith(b"WARC/") else None


def _open_record(file: BinaryIO, offset: int) -> int | None:
    size = file.seek(0, 2)
    file.seek(offset)
    start = file.read(_LONGEST_HEAD)
    head = _HEAD_END.search(start)
    if head is None:
        return offset if 0 < len(start) < _LONGEST_HEAD else None
    length = _LENGTH.search(start[: head.start()])
    return offset if length and offset + head.end() + int(length[1]) > size else None


def _open_member(file: BinaryIO, offset: int) -> int | None:
    file.seek(offset)
    started, position = offset, offset
    pending = b""
    member = None
    while True:
        if not pending:
            pending = file.read(_BLOCK)
            if not pending:
                return started if member is not None else None
            position += len(pending)
        if member is None:
            started = position - len(pending)
            member = zlib.decompressobj(31)
        try:
            member.decompress(pending, _BLOCK)
        except zlib.error:
            return None if started == offset else started  # not gzip, or damaged and counted already
        if member.eof:
            pending, member = member.unused_data.lstrip(b"\0"), None
        else:
            pending = member.unconsumed_tail


def _member_starts(window: bytes) -> list[int]:
    starts = []
    found = window.find(_MEMBER)
    while found >= 0:
        starts.append(found)
        found = window.find(_MEMBER, found + 1)
    return starts


def _begins_with_record(data: bytes) -> bool:
    try:
        return zlib.decompressobj(31).decompress(data, 64).lstrip().startswith(b"WARC/")
    except zlib.error:
        return False
