"""Records with several columns: texts with labels, sources with targets. They are in memory whole, with a split."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.hashing import fingerprint
from llm_trainer.common.optional import require
from llm_trainer.corpus.decoding import decoded_blocks, decoded_lines
from llm_trainer.corpus.formats import format_suffix
from llm_trainer.corpus.local_sources import split_layout
from llm_trainer.corpus.readers import ReadReport, list_files
from llm_trainer.corpus.source import SPLIT_ALIASES
from llm_trainer.corpus.splits import position


@dataclass(frozen=True)
class Record:
    """One row of a table."""

    values: Mapping[str, Any]
    where: str
    """File and line, for messages."""

    def value(self, column: str) -> Any:
        """What stands in a column.

        Raises:
            DataError: there is no such column, or nothing in it.
        """
        if column not in self.values:
            raise DataError(
                f"{self.where} has no column {column!r}; its columns are {', '.join(map(repr, self.values))}",
                hint="name the columns: data.text_column, label_column, source_column, target_column",
            )
        value = self.values[column]
        if value is None:
            raise DataError(f"{self.where}: column {column!r} is empty")
        return value

    def text(self, column: str) -> str:
        """The text in a column.

        Raises:
            DataError: there is none.
        """
        value = self.value(column)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: expected text in column {column!r}, found {type(value).__name__}")
        return value


@dataclass(frozen=True)
class RecordSplits:
    """Records to learn from and records to validate on."""

    train: list[Record]
    validation: list[Record]
    description: str
    identity: str = field(repr=False)
    """Changes when any record does."""


def open_records(
    paths: list[str],
    *,
    key: str,
    split: str = "train",
    validation_split: str | None = None,
    validation_fraction: float = 0.05,
    max_records: int | None = None,
    encoding: str = "utf-8",
) -> RecordSplits:
    """Read tables: ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` files, or folders of them.

    A single folder with ``train*`` and ``validation*`` (or ``test*``) in it has those splits. Otherwise records are
    held out by the hash of what stands in ``key``: equal ones land on the same side.

    Args:
        paths: files or folders.
        key: the column that tells records apart.
        split: of a folder with splits.
        validation_split: the same, to validate on; ``validation`` when left out, if there is one.
        validation_fraction: held out where there is no such split; 0 holds out nothing.
        max_records: use only the first of the training records.
        encoding: of everything but Parquet.

    Raises:
        DataError: nothing there, no table, or a split that does not exist.
    """
    found = [Path(path).expanduser() for path in paths]
    for path in found:
        if not path.exists():
            raise DataError(
                f"there is no file or folder {path}", hint="examples with several columns are read from files on disk"
            )
    layout = split_layout(found[0]) if len(found) == 1 and found[0].is_dir() else {}
    description = ", ".join(map(str, found))
    if layout:
        wanted = SPLIT_ALIASES.get(split, split)
        held_out = SPLIT_ALIASES.get(validation_split, validation_split) if validation_split else "validation"
        for name in {wanted, *([held_out] if validation_split else [])}:
            if name not in layout:
                raise DataError(f"{description} has no split {name!r}", hint=f"it has {', '.join(layout)}")
        train = _read_all(layout[wanted], encoding)
        if held_out in layout:
            return _splits(train[:max_records], _read_all(layout[held_out], encoding), description)
    else:
        train = _read_all(found, encoding)
    places = [position(json.dumps(record.value(key), ensure_ascii=False, default=str)) for record in train]
    if validation_fraction == 0 or len(set(places)) < 2:
        return _splits(train[:max_records], [], description)
    # At least one on each side.
    limit = min(max(validation_fraction, min(places)), sorted(set(places))[-2])
    kept = [record for record, place in zip(train, places) if place > limit]
    return _splits(kept[:max_records], [record for record, place in zip(train, places) if place <= limit], description)


def read_records(path: Path, *, encoding: str = "utf-8") -> Iterator[Record]:
    """The records of one file, by the format that its name says.

    Raises:
        DataError: the format has no columns, or a row is no record.
        CorruptionError: the file is damaged.
    """
    suffix = format_suffix(path)
    if suffix not in _READERS:
        raise DataError(
            f"{path} has no columns", hint="give examples as .jsonl, .json, .csv, .tsv or .parquet, one a row"
        )
    return _READERS[suffix](path, encoding)


def _splits(train: list[Record], validation: list[Record], description: str) -> RecordSplits:
    if not train:
        raise DataError(f"{description} has no records")
    rows = [json.dumps(record.values, sort_keys=True, default=str) for record in (*train, *validation)]
    return RecordSplits(train, validation, description, fingerprint([len(train), rows]))


def _read_all(paths: Iterable[Path], encoding: str) -> list[Record]:
    records: list[Record] = []
    for path in paths:
        if path.is_dir():
            tables = [file for file in list_files(path, ReadReport()) if format_suffix(file) in _READERS]
            if not tables:
                raise DataError(f"there is no table in the folder {path}", hint="put .jsonl, .csv or .parquet there")
        else:
            tables = [path]
        for table in tables:
            records.extend(read_records(table, encoding=encoding))
    return records


def _jsonl(path: Path, encoding: str) -> Iterator[Record]:
    for number, line in enumerate(decoded_lines(path, encoding), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield _record(json.loads(line), where)
            except (json.JSONDecodeError, RecursionError) as error:
                raise CorruptionError(f"{where} is not valid JSON: {error}") from None


def _json(path: Path, encoding: str) -> Iterator[Record]:
    try:
        value = json.loads("".join(decoded_blocks(path, encoding)))
    except (json.JSONDecodeError, RecursionError) as error:
        if getattr(error, "msg", "") == "Extra data":  # JSON Lines under the name .json is common on the hub
            yield from _jsonl(path, encoding)
            return
        raise CorruptionError(f"{path} is not valid JSON: {error}") from None
    rows = value if isinstance(value, list) else [value]
    for number, row in enumerate(rows, start=1):
        yield _record(row, f"{path}, item {number}")


def _delimited(delimiter: str) -> Callable[[Path, str], Iterator[Record]]:
    def read(path: Path, encoding: str) -> Iterator[Record]:
        # The csv module refuses fields over 128 KB by default. A C long is the most it takes.
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        rows = csv.DictReader(decoded_lines(path, encoding), delimiter=delimiter)
        try:
            for row in rows:
                if None in row:
                    raise DataError(f"{path}, line {rows.line_num} has more fields than the header names")
                yield Record(dict(row), f"{path}, line {rows.line_num}")
        except csv.Error as error:
            raise CorruptionError(f"{path}, line {rows.line_num} cannot be read as a table: {error}") from None

    return read


def _parquet(path: Path, encoding: str) -> Iterator[Record]:
    parquet = require("pyarrow.parquet", extra="hf", purpose="reading Parquet files")
    arrow = require("pyarrow", extra="hf", purpose="reading Parquet files")
    try:
        for number, row in enumerate(parquet.read_table(path).to_pylist(), start=1):
            yield Record(row, f"{path}, row {number}")
    except (arrow.ArrowInvalid, OSError) as error:
        raise CorruptionError(f"{path} is not a readable Parquet file: {error}") from None


def _record(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a record with columns, found {type(value).__name__}")
    return Record(value, where)


_READERS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
}
