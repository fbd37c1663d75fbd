"""The keys and signatures of a finished corpus, kept so that a later one can be deduplicated against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.files import atomic_write, read_json, write_json
from llm_trainer.common.hashing import fingerprint
from llm_trainer.corpus.dedup import exact
from llm_trainer.corpus.dedup.minhash import MinHash
from llm_trainer.corpus.dedup.rows import Rows, map_rows

_KEYS, _SIGNATURES, _INDEX = "keys.npy", "signatures.npy", "index.json"


@dataclass(frozen=True)
class Reference:
    """A corpus that is only read. Put its arrays in front of one's own and say how many rows they are: ``reference=``.

    Attributes:
        keys: (n, 2) uint64, memory-mapped; see :func:`~llm_trainer.corpus.dedup.exact.exact_keys`.
        signatures: (n, width) uint32, memory-mapped, of the same documents; None if nobody asks for near duplicates.
    """

    keys: npt.NDArray[np.uint64]
    signatures: npt.NDArray[np.uint32] | None

    def __len__(self) -> int:
        return len(self.keys)

    def ranks(self, own: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The ranks of this corpus and of one's own documents, which come after it, as one array."""
        return np.concatenate([np.arange(len(self), dtype=np.int64), own])


def write_reference(
    folder: str | Path,
    keys: npt.NDArray[np.uint64] | Sequence[npt.NDArray[np.uint64]],
    signatures: npt.NDArray[np.uint32] | Sequence[npt.NDArray[np.uint32]] | None,
    settings: MinHash | None,
    *,
    kept: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Write a reference: 16 bytes a document and 4 for each value of its signature.

    Args:
        folder: where to; made if it is not there.
        keys: (n, 2) uint64, or one array a unit.
        signatures: (n, width) uint32 of the same documents, if there are any.
        settings: those of the signatures.
        kept: (n,) bool: the documents that are in the corpus; all if left out.
    """
    folder = Path(folder)
    documents = 0
    for name, parts in ((_KEYS, keys), (_SIGNATURES, signatures)):
        if parts is None:
            continue
        table = Rows(parts)
        documents = int(kept.sum()) if kept is not None else len(table)
        _write_rows(folder / name, table, kept, documents)
    write_json(folder / _INDEX, {"documents": documents, "identity": _identity(settings)})


def open_reference(folder: str | Path, settings: MinHash | None) -> Reference:
    """Open a reference for a search with these settings; None looks for exact duplicates only.

    Raises:
        DataError: it was made with other settings, or is none.
        CorruptionError: its files are damaged, or not of one corpus.
    """
    folder = Path(folder)
    if not (folder / _INDEX).is_file():
        raise DataError(f"{folder} is no reference corpus: it has no {_INDEX}")
    index = read_json(folder / _INDEX)
    identity = index.get("identity") if isinstance(index, dict) else None
    if settings is None and isinstance(identity, dict):
        identity = {**identity, "minhash": None}
    if identity != _identity(settings):
        raise DataError(
            f"the reference corpus {folder} was made with other settings",
            hint="use the same ngram, seed, bands, rows and extra for both, or make the reference again",
        )
    count = index.get("documents")
    signatures = _open_rows(folder / _SIGNATURES, np.uint32, count) if settings is not None else None
    return Reference(_open_rows(folder / _KEYS, np.uint64, count), signatures)


def reference_identity(folder: str | Path) -> str:
    """Changes when the reference is made again.

    Raises:
        DataError: it is none.
    """
    path = Path(folder) / _INDEX
    if not path.is_file():
        raise DataError(f"{folder} is no reference corpus: it has no {_INDEX}")
    return fingerprint([read_json(path), path.stat().st_mtime_ns])


def _open_rows(path: Path, dtype: Any, count: int | None) -> npt.NDArray[Any]:
    rows = map_rows(path, dtype)
    if len(rows) != count:
        raise CorruptionError(f"{path} has {len(rows)} rows, not {count}", hint="make the reference again")
    return rows


def _identity(settings: MinHash | None) -> dict[str, Any]:
    return {"exact": exact.VERSION, "minhash": settings.identity() if settings is not None else None}


def _write_rows(path: Path, table: Rows, kept: npt.NDArray[np.bool_] | None, count: int) -> None:
    first = table.parts[0]
    with atomic_write(path) as file:
        shape = (count, *first.shape[1:])
        header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start, block in table.blocks():
            chosen = block if kept is None else block[kept[start : start + len(block)]]
            file.write(np.ascontiguousarray(chosen).tobytes())
