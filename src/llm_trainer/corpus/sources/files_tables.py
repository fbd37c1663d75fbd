"""Comma- and tab-separated tables with a header row; quoted fields may span lines."""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.files_columns import document_of, stream_limits
from llm_trainer.corpus.sources.files_stream import BLOCK_BYTES, Line, lines_of_part
from llm_trainer.corpus.sources.kinds import Part, ReadRequest


class _UnclosedError(Exception):
    """A quoted field that goes on and on: its closing quote is missing."""


class _Feed:
    """Lines for ``csv.reader``, with a memory of those that the record being read has taken."""

    def __init__(self, lines: Iterator[Line], path: Path, losses: Losses, limit: int) -> None:
        self._lines, self._path, self._losses, self._limit = lines, path, losses, limit
        self._returned: deque[tuple[int, str]] = deque()
        self.taken: list[tuple[int, str]] = []
        self._size = 0

    def begin_record(self) -> None:
        """Forget the lines of the record before."""
        self.taken.clear()
        self._size = 0

    def give_back(self) -> tuple[int, str]:
        """Return all lines of the record but its first to the front of the queue; gives the first."""
        first = self.taken[0]
        self._returned.extendleft(reversed(self.taken[1:]))
        self.begin_record()
        return first

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        offset, text = self._returned.popleft() if self._returned else self._read()
        self.taken.append((offset, text))
        self._size += len(text)
        if self._size > self._limit:
            raise _UnclosedError
        return text

    def _read(self) -> tuple[int, str]:
        for line in self._lines:
            where = f"{self._path}:byte {line.offset}"
            if not (line.first and line.last):
                if line.first:
                    self._losses.add("too_large", where, f"a line over {self._limit:,} bytes")
            elif b"\0" in line.data:
                self._losses.add("binary", where, "a NUL byte")
            else:
                try:
                    return line.offset, line.data.decode("utf-8") + "\n"
                except UnicodeDecodeError as error:
                    self._losses.add("invalid_encoding", where, f"not UTF-8: {error.reason}")
        raise StopIteration


def read_table(path: Path, request: ReadRequest, losses: Losses, delimiter: str) -> Iterator[Document]:
    """One document a row; the id is the byte where the row begins.

    A quoted field without an end would swallow the rest of the file: it is given up after a document's length (or at
    the end of the file), its first line is counted as ``unclosed_quote``, and reading goes on behind that line.
    """
    # The csv module refuses fields over 128 KB by default; a C long is the most it takes.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    header = _header(path, request, losses, delimiter)
    if header is None:
        return
    if request.text_column not in header:
        columns = ", ".join(map(repr, header[:8]))
        if not request.part or request.part.start == 0:  # one loss, however many parts the file is read in
            losses.add("no_text_column", str(path), f"no column {request.text_column!r}; there are {columns}")
        return
    column = header.index(request.text_column)
    for offset, row in _rows(path, request, losses, delimiter):
        if offset == 0 or not row:
            continue
        if column >= len(row):
            losses.add("short_row", f"{path}:byte {offset}", f"{len(row)} columns of {len(header)}")
            continue
        record = dict(zip(header, row)) | {request.text_column: row[column]}  # the first of several of one name
        document = document_of(record, str(offset), f"{path}:byte {offset}", request, losses)
        if document:
            yield document


def _header(path: Path, request: ReadRequest, losses: Losses, delimiter: str) -> list[str] | None:
    """The first row, read from the start of the file whatever the part; only the first part counts its losses."""
    own = losses if not request.part or request.part.start == 0 else Losses()
    first = ReadRequest(
        request.options, None, request.text_column, "auto", request.encoding, request.max_document_chars
    )
    probe = Losses()
    for _, row in _rows(path, first, probe, delimiter):
        return row
    if probe.total:
        own.merge(probe)
    else:
        own.add("empty", str(path), "no header row")
    return None


def _rows(path: Path, request: ReadRequest, losses: Losses, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    limit = 4 * request.max_document_chars + (1 << 16)
    bounds = (request.part.start, request.part.stop) if request.part else None
    lines = lines_of_part(path, losses, limit, stream_limits(request), request.encoding, bounds)
    feed = _Feed(lines, path, losses, limit)
    reader = csv.reader(feed, delimiter=delimiter)
    while True:
        feed.begin_record()
        try:
            row = next(reader)
        except StopIteration:
            return
        except (_UnclosedError, csv.Error) as error:
            offset, _ = feed.give_back()
            reason = "unclosed_quote" if isinstance(error, _UnclosedError) else "invalid_row"
            losses.add(reason, f"{path}:byte {offset}", str(error))
            reader = csv.reader(feed, delimiter=delimiter)
            continue
        if len(feed.taken) > 1 and _is_open(feed.taken, delimiter):
            offset, _ = feed.give_back()
            losses.add("unclosed_quote", f"{path}:byte {offset}", "no closing quote before the end of the file")
            reader = csv.reader(feed, delimiter=delimiter)
            continue
        yield feed.taken[0][0], row


def _is_open(taken: list[tuple[int, str]], delimiter: str) -> bool:
    """Whether a record over several lines ends inside its quotes; the reader itself accepts that at the end."""
    if taken[-1][1].rstrip("\r\n").endswith('"'):
        return False
    probe = csv.reader(iter([*(text for _, text in taken), "end"]), delimiter=delimiter)
    next(probe)
    return next(probe, None) != ["end"]


def cut_table(path: Path, part_bytes: int) -> Sequence[Part]:
    """Byte ranges of a table without quotes; with quotes a line need not be a row, and the file is one part.

    The search for a quote reads up to the first one, which in tables of prose is in the first kilobytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            if b'"' in block:
                return [Part(0, size)]
    starts = range(0, max(size, 1), max(1, part_bytes))
    return [Part(start, min(start + part_bytes, size)) for start in starts]
