"""Local files of the common formats, read as tolerantly as they deserve: what is broken is counted, the rest is kept.

The id of a document is the place of its record in the file (a byte offset, a row number), so that it is the same
whether the file is read whole or in parts, compressed or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.files_columns import (
    FilesOptions,
    check_encoding,
    document_of,
    normalise_lines,
    parse_json,
    stream_limits,
)
from llm_trainer.corpus.sources.files_json import read_json
from llm_trainer.corpus.sources.files_parquet import cut_parquet, read_parquet
from llm_trainer.corpus.sources.files_stream import (
    COMPRESSIONS,
    Line,
    as_utf8,
    format_name,
    is_utf8,
    lines_of_part,
    read_blocks,
    split_lines,
)
from llm_trainer.corpus.sources.files_tables import cut_table, read_table
from llm_trainer.corpus.sources.kinds import Kind, Part, ReadRequest

# A text of which more lines than this do not decode is in another encoding; what is left of it would be full of holes.
_MOST_BROKEN_LINES = 0.1
_BINARY_PROBE = 8192
_FORMATS = (".txt", ".text", ".md", ".markdown", ".rst", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")


def read_file(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """The documents of one file, by the ending of its name; plain text when that says nothing."""
    check_encoding(request.encoding, path)
    form = format_name(path)[0]
    if form in (".jsonl", ".ndjson"):
        return read_json_lines(path, request, losses)
    if form == ".json":
        return read_json(path, request, losses)
    if form in (".csv", ".tsv"):
        return read_table(path, request, losses, "," if form == ".csv" else "\t")
    if form == ".parquet":
        return read_parquet(path, request, losses)
    if request.documents == "line":
        return read_text_lines(path, request, losses)
    return read_text(path, request, losses)


def json_line_bytes(request: ReadRequest) -> int:
    """How long a line of JSON may be: a character takes up to four bytes, and there are other columns."""
    return 4 * request.max_document_chars + (1 << 20)


def json_records(path: Path, request: ReadRequest, losses: Losses) -> Iterator[tuple[int, object]]:
    """The records of a file of JSON Lines with the byte where each begins; what does not parse is counted."""
    bounds = (request.part.start, request.part.stop) if request.part else None
    limits = stream_limits(request)
    for line in lines_of_part(path, losses, json_line_bytes(request), limits, request.encoding, bounds):
        where = f"{path}:byte {line.offset}"
        if not (line.first and line.last):
            if line.first:
                losses.add("too_large", where, f"a line over {json_line_bytes(request):,} bytes")
            continue
        if not line.data.strip():
            continue
        if b"\0" in line.data:
            losses.add("binary", where, "a NUL byte")
            continue
        try:
            line.data.decode("utf-8")
        except UnicodeDecodeError as error:
            losses.add("invalid_encoding", where, f"not UTF-8: {error.reason} at byte {error.start} of the line")
            continue
        try:
            yield line.offset, parse_json(line.data)
        except ValueError as error:
            losses.add("invalid_json", where, str(error))


def read_json_lines(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """One JSON record a line: an object with the text column, or a bare string."""
    for offset, record in json_records(path, request, losses):
        document = document_of(record, str(offset), f"{path}:byte {offset}", request, losses)
        if document:
            yield document


def read_text_lines(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """One document a line; lines of nothing but spaces are none. A line over the limit is cut."""
    bounds = (request.part.start, request.part.stop) if request.part else None
    limits = stream_limits(request)
    if _begins_binary(path, request.encoding):
        if not (request.part and request.part.start):  # one loss, however many parts the file is read in
            losses.add("binary", str(path), "NUL bytes at its start")
        return
    for line in lines_of_part(path, losses, request.max_document_chars, limits, request.encoding, bounds):
        if line.offset == 0 and _looks_binary(line.data):
            losses.add("binary", str(path), "NUL bytes at its start")
            return
        text = _decode_line(line, path, losses)
        if text is not None and (stripped := normalise_lines(text.strip()).strip()):
            yield Document(stripped, str(line.offset))


def read_text(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """A file as one document; one over the limit in pieces that end at a line border."""
    if request.part and request.part.start:
        return  # one document cannot be read in parts: the first part has given it
    blocks = as_utf8(read_blocks(path, losses, stream_limits(request)), request.encoding, path, losses)
    pieces = _pieces(split_lines(blocks, request.max_document_chars), path, request.max_document_chars, losses)
    first = next(pieces, None)
    second = next(pieces, None)
    if first is None:
        return
    yield Document(first, "" if second is None else "piece1")
    number = 2
    while second is not None:
        yield Document(second, f"piece{number}")
        number, second = number + 1, next(pieces, None)


def _pieces(lines: Iterator[Line], path: Path, limit: int, losses: Losses) -> Iterator[str]:
    """Lines joined up to ``limit`` characters; lines that do not decode are left out and counted."""
    held: list[str] = []
    size = lines_seen = 0
    broken = Losses()
    empty, lost_before = True, losses.total
    for line in lines:
        if line.offset == 0 and _looks_binary(line.data):
            losses.add("binary", str(path), "NUL bytes at its start")
            return
        text = _decode_line(line, path, broken)
        lines_seen += 1
        if text is None:
            continue
        text = text if line.offset else text.removeprefix("\ufeff")
        text = normalise_lines(text) + ("\n" if line.last else "")
        if size + len(text) > limit and held:
            piece = _join(held, lines_seen, broken, path, losses)
            if piece:
                yield piece
                empty = False
            held, size, lines_seen, broken = [], 0, 1, Losses()
        held.append(text[:limit])
        size += len(text)
    piece = _join(held, lines_seen, broken, path, losses)
    if piece:
        yield piece
    elif empty and losses.total == lost_before:
        losses.add("empty", str(path), "no text in it")


def _join(held: list[str], lines_seen: int, broken: Losses, path: Path, losses: Losses) -> str | None:
    if broken.total > _MOST_BROKEN_LINES * lines_seen and broken.total > 1:
        losses.add("wrong_encoding", str(path), f"{broken.total} of {lines_seen} lines are not in the encoding")
        return None
    losses.merge(broken)
    piece = "".join(held)
    return piece if piece.strip() else None


def _looks_binary(data: bytes) -> bool:
    return b"\0" in data[:_BINARY_PROBE]


def _begins_binary(path: Path, encoding: str) -> bool:
    """Whether the first line of a file that can be read in parts looks binary; its other parts do not see it."""
    if format_name(path)[1] or not is_utf8(encoding):
        return False
    try:
        with path.open("rb") as file:
            return _looks_binary(file.read(_BINARY_PROBE).partition(b"\n")[0])
    except OSError:
        return False  # reading the part says why


def _decode_line(line: Line, path: Path, losses: Losses) -> str | None:
    where = f"{path}:byte {line.offset}"
    if b"\0" in line.data:
        losses.add("binary", where, "a NUL byte")
        return None
    try:
        return line.data.decode("utf-8")
    except UnicodeDecodeError as error:
        losses.add("invalid_encoding", where, f"not UTF-8: {error.reason} at byte {error.start} of the line")
        return None


def cut_file(path: Path, part_bytes: int) -> Sequence[Part]:
    """The parts of a file: byte ranges of JSON Lines, text and plain tables, row groups of Parquet, else the file.

    A text that is read as one document is given whole by its first part, so that the parts are right for both ways of
    reading it.
    """
    form, compression = format_name(path)
    if form == ".parquet":
        return cut_parquet(path, part_bytes)
    size = path.stat().st_size
    if compression or form == ".json":
        return [Part(0, size)]
    if form in (".csv", ".tsv"):
        return cut_table(path, part_bytes)
    starts = range(0, max(size, 1), max(1, part_bytes))
    return [Part(start, min(start + part_bytes, size)) for start in starts]


KIND_FILES = Kind(
    name="files",
    description="text, Markdown, JSON, JSON Lines, CSV, TSV and Parquet files",
    read=read_file,
    suffixes=(*_FORMATS, *(form + ending for form in _FORMATS for ending in COMPRESSIONS), ".parquet"),
    options=FilesOptions,
    cut=cut_file,
)
