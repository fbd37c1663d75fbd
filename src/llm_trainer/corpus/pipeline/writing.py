"""Last stage: finished documents as files, in the order of the corpus or of its mixture.

Without a mixture the units' documents are passed on in their order, as a stream. A mixture takes documents in an order
of its own, some of them several times: each is first put into the basket of the file that it belongs to, then every
basket is sorted alone. So memory holds one file at a time, whatever the size of the corpus.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_trainer.common.files import atomic_write, explain_os_errors
from llm_trainer.common.optional import require
from llm_trainer.corpus.pipeline.store import Record, RecordWriter, read_lines, write_records

_ROWS = 1000
_ROWS_CHARS = 32 << 20
_OURS = re.compile(r"(train|validation)-\d{5,}\.(jsonl\.zst|parquet)")
MAX_SHARDS = 512
"""Baskets that are open at a time; with more text than that, files become larger than asked for."""


@dataclass(frozen=True)
class Order:
    """Where each document of a mixture goes.

    Attributes:
        places: (documents + 1,) int64: where the positions of a document begin in ``positions``.
        positions: (picks,) int64: places in the mixture, document after document.
        shard: (picks,) int32: for every position, the file that it belongs to.
    """

    places: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    shard: npt.NDArray[np.int32]

    @classmethod
    def of(cls, picks: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], shard_bytes: float) -> Order:
        """From the mixture.

        Args:
            picks: (picks,) number of the document at every place of the mixture.
            sizes: (documents,) bytes of each document.
            shard_bytes: of a file, about.
        """
        total = int(sizes[picks].sum())
        shard_bytes = max(shard_bytes, total / MAX_SHARDS, 1.0)
        ends = np.cumsum(sizes[picks])
        shard = ((ends - sizes[picks]) / shard_bytes).astype(np.int32)
        positions = np.argsort(picks, kind="stable")
        places = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(np.bincount(picks, minlength=len(sizes)), out=places[1:])
        return cls(places, positions, shard)

    def within(self, shard: int) -> npt.NDArray[np.int64]:
        """Which of the documents that were put into a file, in the order of their numbers, comes first, second..."""
        return np.argsort(self.positions[self.shard[self.positions] == shard])


def shard_name(split: str, number: int, file_format: str) -> str:
    """``train-00000.jsonl.zst``: readers of data sets find the split in the name."""
    return f"{split}-{number:05}.{file_format}"


def write_stream(
    records: Iterable[Record], folder: Path, split: str, file_format: str, shard_bytes: float
) -> list[Path]:
    """Write records in their order, beginning a new file after every ``shard_bytes`` of text."""
    paths: list[Path] = []
    for number, shard in enumerate(_stretches(records, shard_bytes)):
        path = folder / shard_name(split, number, file_format)
        write_shard(path, shard, file_format)
        paths.append(path)
    return paths


def write_mixture(
    records: Iterable[Record], order: Order, folder: Path, split: str, file_format: str, baskets: Path
) -> list[Path]:
    """Write the documents of a mixture.

    Args:
        records: all documents, in the order of their numbers.
        order: where each goes.
        folder: of the files.
        split: their name begins with it.
        file_format: ``jsonl.zst`` or ``parquet``.
        baskets: folder for what is between; it is deleted.
    """
    count = int(order.shard.max()) + 1 if len(order.shard) else 0
    shutil.rmtree(baskets, ignore_errors=True)
    with explain_os_errors(baskets):
        baskets.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(RecordWriter(baskets / f"{number}.jsonl.zst")) for number in range(count)]
        for number, record in enumerate(records):
            for position in order.positions[order.places[number] : order.places[number + 1]].tolist():
                writers[order.shard[position]].write(_public(record))
    paths = []
    for number in range(count):
        path = folder / shard_name(split, number, file_format)
        # As bytes: parsed, the tags alone would take several times the memory of the text.
        lines = list(read_lines(baskets / f"{number}.jsonl.zst"))
        _write_lines(path, (lines[place] for place in order.within(number).tolist()), file_format)
        paths.append(path)
    shutil.rmtree(baskets)
    return paths


def write_shard(path: Path, records: Iterable[Record], file_format: str) -> None:
    """Write one file of finished documents with their provenance."""
    if file_format == "parquet":
        _write_parquet(path, map(_row, records))
    else:
        write_records(path, map(_public, records))


def _write_lines(path: Path, lines: Iterable[bytes], file_format: str) -> None:
    """The same for documents that are JSON already."""
    if file_format == "parquet":
        orjson = require("orjson", extra="data", purpose="building a corpus")
        _write_parquet(path, (_row(orjson.loads(line)) for line in lines))
        return
    with RecordWriter(path) as writer:
        for line in lines:
            writer.write_line(line)


def _public(record: Record) -> Record:
    """What a reader of the corpus is given: the text, where it comes from, and what the filters found."""
    return {key: record[key] for key in ("text", "id", "source", "tokens", "metadata", "tags")}


def _row(record: Record) -> dict[str, Any]:
    """The same for a table; what differs from document to document is one column of JSON."""
    orjson = require("orjson", extra="data", purpose="building a corpus")
    metadata = record["metadata"]
    return {
        **{key: record[key] for key in ("text", "id", "source", "tokens")},
        **{key: str(metadata.get(key) or "") for key in ("category", "license", "url")},
        "language": str(record["tags"].get("language") or metadata.get("language") or ""),
        "metadata": orjson.dumps(metadata).decode("utf-8"),
        "tags": orjson.dumps(record["tags"]).decode("utf-8"),
    }


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    arrow = require("pyarrow", extra="data", purpose="writing Parquet files")
    parquet = require("pyarrow.parquet", extra="data", purpose="writing Parquet files")
    names = ("text", "id", "source", "category", "license", "url", "language", "metadata", "tags")
    schema = arrow.schema([*((name, arrow.string()) for name in names), ("tokens", arrow.int64())])
    with atomic_write(path) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        size = 0
        for row in rows:
            batch.append(row)
            size += len(row["text"])
            if len(batch) == _ROWS or size >= _ROWS_CHARS:  # books are long, and a column holds 2 GB at most
                writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
                batch, size = [], 0
        if batch:
            writer.write_table(arrow.Table.from_pylist(batch, schema=schema))


def _stretches(records: Iterable[Record], shard_bytes: float) -> Iterator[Iterator[Record]]:
    """Cut a stream into streams; each must be used up before the next is asked for."""
    rest = iter(records)
    for first in rest:
        yield _stretch(first, rest, shard_bytes)


def _stretch(first: Record, rest: Iterator[Record], shard_bytes: float) -> Iterator[Record]:
    size = len(first["text"])
    yield first
    while size < shard_bytes and (record := next(rest, None)) is not None:
        size += len(record["text"])
        yield record


def remove_files(folder: Path, keep: Sequence[Path]) -> None:
    """Delete the files of an earlier build that this one did not write."""
    for path in folder.iterdir():
        if path not in keep and _OURS.fullmatch(path.name):
            path.unlink()
