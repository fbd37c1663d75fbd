"""Exact repetition inside documents: the same fifty tokens a second time, wherever they stand.

Lee et al., "Deduplicating training data makes language models better" (2022, arXiv:2107.06499), who cut what is
repeated with a suffix array. Here a suffix array does it for what fits in memory (:mod:`.suffix`), and sorted hashes of
windows, kept in files, do it for any amount (this module); both find the same stretches.

In a pipeline: :func:`collect` for every unit, one :func:`resolve` for all, :func:`~.spans.cut_tokens` for every unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from llm_trainer.common.files import atomic_write
from llm_trainer.config.base import Int, Settings
from llm_trainer.corpus.dedup.rows import map_rows, ranked
from llm_trainer.corpus.dedup.shingles import (
    HashedWords,
    Int64s,
    UInt64s,
    as_table,
    expand,
    piece_hashes,
    window_hashes,
)
from llm_trainer.corpus.dedup.spans import Spans, merge_spans
from llm_trainer.corpus.words import WordTable

WINDOWS_AT_ONCE = 1 << 24
"""Windows sorted at once: about 1 GB of work memory."""

_DTYPE = np.dtype([("key", "<u8"), ("document", "<u4"), ("position", "<u4")])


class RepeatedText(Settings):
    """How exact repetition is found and cut.

    A token is a word or a run of punctuation, exactly as written, in pieces of four characters; the space between them
    does not count. Fifty of them are about 180 characters of English.
    """

    VERSION: ClassVar[int] = 1
    """Changes when windows do."""

    min_tokens: Annotated[Int, Field(ge=2)] = 50
    """Shortest repeated run that is removed."""

    min_chars: Annotated[Int, Field(ge=0)] = 100
    """A document that is shorter after it was cut is dropped."""

    passes: Annotated[Int, Field(ge=1, le=5)] = 2
    """Cutting brings together what did not stand together; the second pass removes what the first has made equal
    (3.4 million repeats, then 374, in Lee et al.)."""

    method: Literal["auto", "suffix_array", "windows"] = "auto"
    """``auto``: a suffix array where it fits in ``memory`` (and its package is installed), else sorted windows. The
    result is the same."""

    memory: Annotated[Int, Field(ge=1 << 20)] = 1 << 30
    """Bytes that the suffix array may take."""

    def identity(self) -> dict[str, Any]:
        """What windows depend on."""
        return {"name": "repeated_text", "version": self.VERSION, "min_tokens": self.min_tokens}

    def tokens(self, texts: Sequence[str] | WordTable) -> HashedWords:
        """The tokens of texts, hashed."""
        return expand(as_table(texts), piece_hashes)


@dataclass(frozen=True)
class Windows:
    """All runs of ``min_tokens`` tokens of one unit.

    Attributes:
        rows: (n,) records of ``key`` (uint64), ``document`` (uint32, in the unit) and ``position`` (uint32, of the
            first token), sorted by key. 16 bytes each; as many as there are tokens.
    """

    rows: npt.NDArray[Any]

    def save(self, path: str | Path) -> None:
        """Write them to a ``.npy`` file, atomically."""
        with atomic_write(path) as file:
            np.save(file, self.rows, allow_pickle=False)

    @classmethod
    def load(cls, path: str | Path) -> Windows:
        """Map a file that :meth:`save` wrote; see :func:`~llm_trainer.corpus.dedup.rows.map_rows`."""
        return cls(map_rows(Path(path), _DTYPE))


def collect(texts: Sequence[str] | WordTable, settings: RepeatedText) -> Windows:
    """The windows of the documents of one unit."""
    hashes, starts = window_hashes(settings.tokens(texts), settings.min_tokens)
    counts = np.diff(starts)
    order = np.argsort(hashes, kind="stable")
    rows = np.empty(len(hashes), dtype=_DTYPE)
    rows["key"] = hashes[order]
    rows["document"] = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)[order]
    rows["position"] = (np.arange(len(hashes)) - np.repeat(starts[:-1], counts)).astype(np.uint32)[order]
    return Windows(rows)


def resolve(
    units: Sequence[Windows],
    ranks: Sequence[Int64s],
    settings: RepeatedText,
    *,
    reference: int = 0,
    windows_at_once: int = WINDOWS_AT_ONCE,
) -> list[Spans]:
    """Decide which stretches go: of every repeated window, all occurrences but one.

    The one that stays is in the document of lowest rank, at its earliest position. The keys are gone through a range at
    a time: in memory are ``windows_at_once`` windows, 8 bytes a document, and 12 bytes for each window that goes.

    Args:
        units: the windows of every unit.
        ranks: for every unit, (documents,) int64; unique over all units. The lowest keeps its text.
        settings: those that the windows were made with.
        reference: that many units at the front belong to a corpus that is only read: they keep everything.
        windows_at_once: about how many windows to sort at once.

    Returns:
        for every unit, what to remove. Hashes have 64 bits: among 10**9 windows the chance that any two different ones
        are taken for equal is 3 %, and one such pair costs fifty tokens.
    """
    owners = Owners.of(ranks, reference)
    total = sum(len(unit.rows) for unit in units)
    ranges = max(1, -(-total // max(windows_at_once, 1)))
    borders = np.array([(number << 64) // ranges for number in range(1, ranges)], dtype=np.uint64)
    cuts = [np.concatenate(([0], np.searchsorted(u.rows["key"], borders), [len(u.rows)])).tolist() for u in units]
    found: list[Losers] = []
    for number in range(ranges):
        pieces = [np.asarray(unit.rows[cut[number] : cut[number + 1]]) for unit, cut in zip(units, cuts)]
        keys = np.concatenate([piece["key"] for piece in pieces]) if pieces else np.empty(0, dtype=np.uint64)
        documents = [piece["document"] + start for piece, start in zip(pieces, owners.starts.tolist())]
        positions = [piece["position"] for piece in pieces]
        shared = repeated(keys)
        if len(shared):
            document = np.concatenate(documents).astype(np.int64)[shared]
            position = np.concatenate(positions).astype(np.int64)[shared]
            found.append(owners.losers(keys[shared], document, position, settings.min_tokens))
    return owners.spans(found)


def repeated(keys: UInt64s) -> Int64s:
    """The places of all keys that occur more than once."""
    order = np.argsort(keys)
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    shared = np.zeros(len(order), dtype=bool)
    shared[1:] |= same
    shared[:-1] |= same
    return order[shared]


@dataclass(frozen=True)
class Losers:
    """Stretches that go, each of the part of one window that does not belong to the window that stays."""

    documents: npt.NDArray[np.int64]
    starts: npt.NDArray[np.uint32]
    stops: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Owners:
    """The documents of all units in one numbering, and which of them has the better claim.

    Attributes:
        starts: (units + 1,) int64: number of the first document of every unit.
        claims: (documents,) int64: place in the order of claims.
        fixed: documents below this number keep everything.
    """

    starts: Int64s
    claims: Int64s
    fixed: int

    @classmethod
    def of(cls, ranks: Sequence[Int64s], reference: int) -> Owners:
        """From the ranks of every unit's documents; the first ``reference`` units are only read."""
        starts = np.zeros(len(ranks) + 1, dtype=np.int64)
        np.cumsum([len(unit) for unit in ranks], out=starts[1:])
        claims = np.empty(starts[-1], dtype=np.int64)
        if len(claims):
            claims[ranked(np.concatenate(list(ranks)), int(starts[reference]))] = np.arange(len(claims))
        return cls(starts, claims, int(starts[reference]))

    def losers(self, groups: npt.NDArray[Any], documents: Int64s, positions: Int64s, size: int) -> Losers:
        """Of windows in groups of equal ones: what goes.

        A window that overlaps the one that stays, as in a text that repeats itself every few words, loses only what is
        outside of it.

        Args:
            groups: (n,) equal numbers for equal windows.
            documents: (n,) the document of each.
            positions: (n,) its first token there.
            size: tokens in a window.
        """
        order = np.lexsort((positions, self.claims[documents], groups))
        groups, documents, positions = groups[order], documents[order], positions[order]
        begins = np.ones(len(groups), dtype=bool)
        begins[1:] = groups[1:] != groups[:-1]
        winner = np.flatnonzero(begins)[np.cumsum(begins) - 1]
        starts = np.where(documents == documents[winner], np.maximum(positions, positions[winner] + size), positions)
        goes = ~begins & (documents >= self.fixed)
        return Losers(documents[goes], starts[goes].astype(np.uint32), (positions[goes] + size).astype(np.uint32))

    def spans(self, found: Sequence[Losers]) -> list[Spans]:
        """All stretches, joined, for every unit."""
        if not found:
            found = [Losers(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.uint32))]
        documents = np.concatenate([some.documents for some in found])
        starts = np.concatenate([some.starts for some in found]).astype(np.int64)
        stops = np.concatenate([some.stops for some in found]).astype(np.int64)
        merged = merge_spans(documents, starts, stops)
        borders = np.searchsorted(merged.documents, self.starts).tolist()
        return [
            Spans(merged.documents[low:high] - first, merged.starts[low:high], merged.stops[low:high])
            for low, high, first in zip(borders[:-1], borders[1:], self.starts.tolist())
        ]
