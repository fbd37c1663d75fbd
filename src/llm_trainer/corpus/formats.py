"""One function a file format: a path in, ``(name inside the file, text)`` pairs out, streamed where the format can be.

Only ``.json`` (one value) is in memory whole; text, ``.jsonl``, ``.csv``, ``.tsv`` and ``.parquet`` are streamed.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.optional import require
from llm_trainer.corpus.decoding import COMPRESSIONS, decoded_blocks, decoded_lines

DocumentUnit = Literal["auto", "file", "line"]

PIECE_CHARS = 64 << 20
"""A text file longer than this is given in pieces that end at a line border, so that memory stays bounded."""

Texts = Iterator[tuple[str, str]]


class NoTextError(DataError):
    """The table or record has no text under that name, or no such name."""


class NotJsonError(CorruptionError):
    """A ``.json`` file that does not parse."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How files become documents.

    Args:
        text_column: the column or key with the text, in tabular formats.
        documents: ``"file"`` (one document a text file), ``"line"`` (one a line) or ``"auto"`` (= file).
        encoding: encoding of everything but Parquet.
        piece_chars: longest document made of a text file, in characters.
    """

    text_column: str = "text"
    documents: DocumentUnit = "auto"
    encoding: str = "utf-8"
    piece_chars: int = PIECE_CHARS


def reader_for(path: Path) -> Callable[[Path, ReadOptions], Texts]:
    """The function that reads a file of this name; plain text when the extension says nothing else."""
    return _READERS.get(format_suffix(path), read_text)


def format_suffix(path: Path) -> str:
    """The extension that names the format: ``.jsonl`` for ``a.jsonl.gz``."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix in COMPRESSIONS else name.suffix


def is_tabular(path: Path) -> bool:
    """Whether a file of this name holds records with columns rather than plain text."""
    return format_suffix(path) in _READERS


def read_text(path: Path, options: ReadOptions) -> Texts:
    """A text file: one document, or one a line. Lines with nothing but spaces give none."""
    if options.documents == "line":
        for number, line in enumerate(decoded_lines(path, options.encoding), start=1):
            if stripped := line.strip():
                yield str(number), stripped
        return
    pieces = _pieces(decoded_blocks(path, options.encoding), options.piece_chars)
    first, second = next(pieces, None), next(pieces, None)
    if first is None:
        return
    if second is None:
        yield "", first
        return
    yield "piece1", first
    yield "piece2", second
    for number, piece in enumerate(pieces, start=3):
        yield f"piece{number}", piece


def _pieces(blocks: Iterable[str], limit: int) -> Iterator[str]:
    """Join blocks up to ``limit`` characters; cut at the last line end, or the last space, or right there."""
    buffer: list[str] = []
    size = 0
    for block in blocks:
        buffer.append(block)
        size += len(block)
        while size > limit:
            text = "".join(buffer)
            cut = text.rfind("\n", 0, limit) + 1 or text.rfind(" ", 0, limit) + 1 or limit
            yield text[:cut]
            buffer = [text[cut:]]
            size = len(text) - cut
    if size:
        yield "".join(buffer)


def read_jsonl(path: Path, options: ReadOptions) -> Texts:
    """One JSON record a line: an object with the text column, or a bare string."""
    for number, line in enumerate(decoded_lines(path, options.encoding), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise CorruptionError(f"{path}, line {number} is not valid JSON: {error}") from None
        yield str(number), _text_of(record, options.text_column, f"{path}, line {number}")


def read_json(path: Path, options: ReadOptions) -> Texts:
    """A list of records or strings, one record, or an object of columns (``{"text": [...], ...}``)."""
    content = "".join(decoded_blocks(path, options.encoding))
    try:
        value = json.loads(content)
    except (json.JSONDecodeError, RecursionError) as error:
        if getattr(error, "msg", "") == "Extra data":  # JSON Lines under the name .json is common on the hub
            yield from read_jsonl(path, options)
            return
        raise NotJsonError(f"{path} is not valid JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get(options.text_column), list):
        value = value[options.text_column]
    if not isinstance(value, list):
        yield "", _text_of(value, options.text_column, str(path))
        return
    for number, record in enumerate(value, start=1):
        yield str(number), _text_of(record, options.text_column, f"{path}, item {number}")


def read_csv(path: Path, options: ReadOptions) -> Texts:
    """Comma-separated values with a header row; quoted fields may span lines."""
    return _read_delimited(path, options, ",")


def read_tsv(path: Path, options: ReadOptions) -> Texts:
    """Tab-separated values with a header row."""
    return _read_delimited(path, options, "\t")


def _read_delimited(path: Path, options: ReadOptions, delimiter: str) -> Texts:
    # The csv module refuses fields over 128 KB by default; a document may be longer. A C long is the most it takes.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    rows = csv.reader(decoded_lines(path, options.encoding), delimiter=delimiter)
    try:
        header = next(rows, None)
        if header is None:
            return
        if options.text_column not in header:
            raise _missing_column(options.text_column, header, str(path))
        column = header.index(options.text_column)
        for number, row in enumerate(rows, start=1):
            yield str(number), row[column] if column < len(row) else ""
    except csv.Error as error:
        raise CorruptionError(f"{path}, line {rows.line_num} cannot be read as a table: {error}") from None


def read_parquet(path: Path, options: ReadOptions) -> Texts:
    """An Apache Parquet file; only the text column is read, a thousand rows at a time."""
    if path.suffix.lower() in COMPRESSIONS:
        raise DataError(f"{path}: a compressed Parquet file cannot be streamed", hint="decompress it first")
    parquet = require("pyarrow.parquet", extra="hf", purpose="reading Parquet files")
    arrow = require("pyarrow", extra="hf", purpose="reading Parquet files")
    try:
        with parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            if options.text_column not in names:
                raise _missing_column(options.text_column, names, str(path))
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=[options.text_column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    where = f"{path}, row {number}"
                    yield str(number), _text_of({options.text_column: value}, options.text_column, where)
    except (arrow.ArrowInvalid, OSError) as error:
        raise CorruptionError(f"{path} is not a readable Parquet file: {error}") from None


def _text_of(record: Any, column: str, where: str) -> str:
    """The text of one record; ``""`` for null, which the caller counts as empty."""
    if isinstance(record, dict):
        if column not in record:
            raise _missing_column(column, record, where)
        record = record[column]
    if record is None:
        return ""
    if not isinstance(record, str):
        raise NoTextError(
            f"{where}: expected text, or a record with text under {column!r}; found {type(record).__name__}",
            hint="name the column with the text: data.text_column=NAME",
        )
    return record


def _missing_column(column: str, existing: Iterable[Any], where: str) -> NoTextError:
    names = [str(name) for name in existing]
    listed = ", ".join(map(repr, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return NoTextError(
        f"{where} has no column {column!r}; its columns are {listed or 'none'}",
        hint=f"say which one holds the text, for example data.text_column={names[0] if names else 'content'}",
    )


_READERS: dict[str, Callable[[Path, ReadOptions], Texts]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
