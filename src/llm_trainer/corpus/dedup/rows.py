"""Many arrays as one: the files of all work units, one below the other, read a stretch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import CorruptionError, DataError

BLOCK_ROWS = 1 << 16


class Rows:
    """Arrays of equal width, one below the other; they may be memory-mapped and are never joined.

    Args:
        parts: one array, or one for each unit, in the order of the units.
    """

    def __init__(self, parts: npt.NDArray[Any] | Sequence[npt.NDArray[Any]]) -> None:
        self.parts = [parts] if isinstance(parts, np.ndarray) else list(parts)
        self.starts = np.zeros(len(self.parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in self.parts], out=self.starts[1:])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """``(number of the first row, rows)`` from the first to the last."""
        for start, part in zip(self.starts.tolist(), self.parts):
            for offset in range(0, len(part), rows):
                yield start + offset, np.asarray(part[offset : offset + rows])

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The rows with these numbers, in this order."""
        if len(self.parts) == 1:
            return np.asarray(self.parts[0][index])
        owner = np.searchsorted(self.starts, index, side="right") - 1
        found = np.empty((len(index), *self.parts[0].shape[1:]), dtype=self.parts[0].dtype)
        for number in np.unique(owner).tolist():
            mine = owner == number
            found[mine] = self.parts[number][index[mine] - self.starts[number]]
        return found


def ranked(ranks: npt.NDArray[np.int64], reference: int) -> npt.NDArray[np.int64]:
    """Row numbers from the highest claim to the lowest: first the ``reference`` leading rows, then by rank."""
    later = np.arange(len(ranks)) >= reference
    return np.lexsort((ranks, later)) if reference else np.argsort(ranks, kind="stable")


def map_rows(path: Path, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Map a ``.npy`` file of rows; they are read as far as they are used.

    Raises:
        DataError: the file is not there or cannot be read.
        CorruptionError: it is damaged, or holds something else.
    """
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
        # A file of no rows cannot be mapped.
        rows: npt.NDArray[Any] = np.load(path, mmap_mode="r" if shape[0] else None, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", hint="build it again") from None
    except (ValueError, EOFError, IndexError) as error:
        raise CorruptionError(f"{path} is damaged: {error}", hint="delete it and build again") from None
    if rows.dtype != dtype:
        raise CorruptionError(f"{path} holds {rows.dtype}, not {np.dtype(dtype)}", hint="delete it and build again")
    return rows
