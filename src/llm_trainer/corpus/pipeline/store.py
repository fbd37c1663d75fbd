"""Files between the stages: records in, records out, and a manifest that says that a unit is whole.

Every stage has a folder that is named by everything its output depends on, and every unit files in it that are named
by what was read. So a changed threshold makes a new folder and leaves the stages before it alone, and a unit that was
interrupted has no manifest and is made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import CorruptionError, UserError
from llm_trainer.common.files import atomic_write, explain_os_errors, read_json, write_json
from llm_trainer.common.optional import require

Record = dict[str, Any]
_LEVEL = 3
_READ_BYTES = 1 << 20
_SMALL_BYTES = 1 << 14


@dataclass(frozen=True)
class StageFolder:
    """The outputs of one stage.

    Args:
        path: ``stages/NAME-IDENTITY``.
    """

    path: Path

    def records(self, unit: str) -> Path:
        """The documents of a unit."""
        return self.path / f"{unit}.jsonl.zst"

    def array(self, unit: str, name: str) -> Path:
        """One kind of numbers of a unit: keys, signatures, sizes."""
        return self.path / f"{unit}.{name}.npy"

    def manifest(self, unit: str) -> Path:
        """Written last: the unit is whole."""
        return self.path / f"{unit}.json"

    def finish(self, unit: str, facts: Mapping[str, Any]) -> None:
        """Say that a unit is whole, and what was counted while it was made."""
        files = [path for path in (self.records(unit), *self.path.glob(f"{unit}.*.npy")) if path.exists()]
        sizes = {path.name: path.stat().st_size for path in sorted(files)}
        write_json(self.manifest(unit), {**facts, "files": sizes}, indent=None)

    def is_done(self, unit: str) -> bool:
        """Whether a unit is whole: its manifest is there, and every file that it names with the size that it says."""
        path = self.manifest(unit)
        if not path.exists():
            return False
        try:
            files = read_json(path)["files"]
        except (UserError, KeyError, TypeError):
            return False
        with contextlib.suppress(FileNotFoundError):
            return all((self.path / name).stat().st_size == size for name, size in files.items())
        return False

    def facts(self, unit: str) -> dict[str, Any]:
        """What was counted while a unit was made."""
        facts: dict[str, Any] = read_json(self.manifest(unit))
        return facts


class RecordWriter:
    """A file of records that is written bit by bit; it is there, whole, after the ``with`` block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._orjson = require("orjson", extra="data", purpose="building a corpus")
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> RecordWriter:
        zstandard = require("zstandard", extra="data", purpose="building a corpus")
        file = self._stack.enter_context(atomic_write(self._path))
        compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._stream = self._stack.enter_context(compressor.stream_writer(file, closefd=False))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, record: Record) -> None:
        """Add a record."""
        try:
            line = self._orjson.dumps(record)
        except TypeError:
            line = self._orjson.dumps(_plain(record))
        self.write_line(line)

    def write_line(self, line: bytes) -> None:
        """Add a record that is JSON already."""
        with explain_os_errors(self._path):
            self._stream.write(line + b"\n")


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records as compressed JSON lines, whole or not at all; returns their number."""
    count = 0
    with RecordWriter(path) as writer:
        for record in records:
            writer.write(record)
            count += 1
    return count


def _plain(value: Any) -> Any:
    """What the world's metadata hold and JSON files cannot: halves of characters, huge numbers, objects."""
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return str(value)


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file that :func:`write_records` made.

    Raises:
        CorruptionError: its bytes are not those that were written.
    """
    orjson = require("orjson", extra="data", purpose="building a corpus")
    try:
        for line in read_lines(path):
            yield orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _damaged(path, str(error)) from None


def read_lines(path: Path) -> Iterator[bytes]:
    """The same as JSON, unread. Raises like :func:`read_records`."""
    zstandard = require("zstandard", extra="data", purpose="building a corpus")
    rest = b""
    try:
        with path.open("rb") as file:
            decompressor = zstandard.ZstdDecompressor().decompressobj()
            while compressed := file.read(_READ_BYTES // 8):
                *lines, rest = (rest + decompressor.decompress(compressed)).split(b"\n")
                yield from lines
        if not decompressor.eof:
            raise _damaged(path, "it ends too early")
    except zstandard.ZstdError as error:
        raise _damaged(path, str(error)) from None
    except FileNotFoundError:
        raise CorruptionError(f"{path} has gone while it was needed", hint="run the same command again") from None


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array, whole or not at all."""
    with atomic_write(path) as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path) -> npt.NDArray[Any]:
    """An array, left on the disk until it is looked at.

    Raises:
        CorruptionError: the file is damaged.
    """
    try:
        # Small ones are read at once: an empty array cannot be mapped.
        mode: Literal["r"] | None = "r" if path.stat().st_size > _SMALL_BYTES else None
        array: npt.NDArray[Any] = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, str(error)) from None
    return array


class StoredArray:
    """An array on the disk that keeps no file open: every look at it maps the file, copies and closes.

    A mapped array holds a file descriptor, of which a process may have about a thousand; a corpus has a work unit for
    each 32 MB, and the steps over all units look at the arrays of all of them.

    Args:
        path: of the ``.npy`` file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        whole = read_array(path)
        self.shape, self.dtype = whole.shape, whole.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, item: Any) -> npt.NDArray[Any]:
        return np.array(read_array(self._path)[item])


def open_array(path: Path) -> npt.NDArray[Any]:
    """An array as :class:`StoredArray`, for code that takes lengths, slices and rows of it and nothing else.

    Raises:
        CorruptionError: the file is damaged.
    """
    return cast("npt.NDArray[Any]", StoredArray(path))


def _damaged(path: Path, reason: str) -> CorruptionError:
    return CorruptionError(f"{path} is damaged: {reason}", hint="delete it and run the same command again")
