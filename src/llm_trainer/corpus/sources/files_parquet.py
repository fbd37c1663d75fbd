"""Apache Parquet: row groups are the parts, and a few hundred rows are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llm_trainer.common.optional import require
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.files_columns import FilesOptions, document_of, files_options
from llm_trainer.corpus.sources.kinds import Part, ReadRequest

_BATCH_ROWS = 256


def read_parquet(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """One document a row; the id is the number of the row in the file, from 0, whatever the part."""
    parquet, arrow = _pyarrow()
    try:
        file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        losses.add("damaged", str(path), str(error))
        return
    with file:
        counts = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        groups = range(request.part.start, min(request.part.stop, len(counts))) if request.part else range(len(counts))
        columns = _columns(file.schema_arrow, request.text_column, files_options(request))
        if request.text_column not in columns:
            names = ", ".join(map(repr, file.schema_arrow.names[:8]))
            detail = f"no column {request.text_column!r}; there are {names}"
            losses.add("no_text_column", str(path), detail, count=max(1, sum(counts[group] for group in groups)))
            return
        for group in groups:
            first = sum(counts[:group])
            given = 0
            try:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=columns):
                    values = {name: batch.column(name) for name in batch.schema.names}
                    for index in range(batch.num_rows):
                        row = first + given
                        given += 1
                        record = {name: _value(column[index]) for name, column in values.items()}
                        document = document_of(record, str(row), f"{path}:row {row}", request, losses)
                        if document:
                            yield document
            except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
                where = f"{path}:row {first + given}"
                losses.add("damaged", where, str(error), count=max(1, counts[group] - given))


def parquet_records(path: Path, losses: Losses) -> Iterator[tuple[int, Any]]:
    """Whole rows, nested values and all, with their numbers from 0; a damaged row group is counted and passed over."""
    parquet, arrow = _pyarrow()
    try:
        file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        losses.add("damaged", str(path), str(error))
        return
    with file:
        row = 0
        for group in range(file.num_row_groups):
            stop = row + file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group]):
                    for record in batch.to_pylist():
                        yield row, record
                        row += 1
            except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
                losses.add("damaged", f"{path}:row {row}", str(error), count=max(1, stop - row))
            row = stop


def cut_parquet(path: Path, part_bytes: int) -> Sequence[Part]:
    """Row groups, as many together as make up ``part_bytes`` on disk; a file that cannot be opened is one part."""
    parquet, arrow = _pyarrow()
    try:
        metadata = parquet.read_metadata(path)
    except (arrow.ArrowException, OSError, UnicodeDecodeError):
        return [Part(0, 1)]  # reading it will count the damage
    parts = []
    start = size = 0
    for group in range(metadata.num_row_groups):
        size += _bytes_on_disk(metadata.row_group(group))
        if size >= part_bytes or group == metadata.num_row_groups - 1:
            parts.append(Part(start, group + 1))
            start, size = group + 1, 0
    return parts or [Part(0, 1)]


def _bytes_on_disk(group: Any) -> int:
    return sum(group.column(index).total_compressed_size for index in range(group.num_columns))


def _columns(schema: Any, text_column: str, options: FilesOptions) -> list[str]:
    """The columns to read: the text and what becomes metadata; a picture beside it is never read from the disk."""
    _, arrow = _pyarrow()
    wanted = [text_column] if text_column in schema.names else []
    if options.metadata_columns == "none":
        return wanted
    if options.metadata_columns == "all":
        types = arrow.types
        tests = [types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean]
        tests += [types.is_dictionary, types.is_timestamp, types.is_date]
        return wanted + [
            field.name for field in schema if field.name != text_column and any(test(field.type) for test in tests)
        ]
    return wanted + [name for name in options.metadata_columns if name in schema.names and name != text_column]


def _value(scalar: Any) -> Any:
    try:
        value = scalar.as_py()
    except (ValueError, OverflowError):  # a string column with bytes that are no string, a time in the year 300000
        return scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else None
    return value.isoformat() if hasattr(value, "isoformat") else value


def _pyarrow() -> tuple[Any, Any]:
    purpose = "reading Parquet files"
    return require("pyarrow.parquet", extra="data", purpose=purpose), require("pyarrow", extra="data", purpose=purpose)
