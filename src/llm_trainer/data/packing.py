"""Fit documents of many lengths into sequences of one length without losing a token.

Best-fit decreasing: the longest piece first, each into the sequence with the least space that still holds it. On
web-like lengths it fills more than 99.9 % of all positions (measured at 256 to 8,192 tokens), where one document a row
fills 11-74 %; and only documents longer than a sequence are continued in further ones, where plain concatenation cuts
11-73 % of them (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv 2404.10830).

Some lengths cannot be fitted well: documents of 300 tokens fill 59 % of 512. There, as many documents as needed are
cut to fill the gaps of the other sequences, so that no more than 1.5 % of the positions is ever wasted.

:func:`pack_readable` is the definition; :func:`pack` gives the same rows fifty to a hundred times faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import DataError

IntArray: TypeAlias = npt.NDArray[np.int64]
Packer: TypeAlias = Literal["bfd", "concat"]

MIN_UTILISATION = 0.985
"""Share of positions that best-fit packing reaches at any price. The promise is 98 % of a whole cache; the rest of the
margin is for a last, small unit."""


class Piece(NamedTuple):
    """Tokens ``start`` to ``stop`` (exclusive) of one document."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class Packing:
    """Which piece of which document goes where, as flat arrays: millions of pieces cost no Python objects.

    Attributes:
        document: the document of every piece, row after row. (pieces,)
        start: its first token within the document. (pieces,)
        stop: one past its last token. (pieces,)
        row_bounds: row r holds the pieces ``row_bounds[r]`` to ``row_bounds[r + 1]``. (rows + 1,)
    """

    document: IntArray
    start: IntArray
    stop: IntArray
    row_bounds: IntArray

    def __len__(self) -> int:
        return len(self.row_bounds) - 1

    @property
    def tokens(self) -> int:
        """Tokens in all rows together."""
        return int((self.stop - self.start).sum())

    def rows(self) -> list[list[Piece]]:
        """The same as lists: one list of :class:`Piece` a row."""
        pieces = [Piece(*values) for values in zip(self.document.tolist(), self.start.tolist(), self.stop.tolist())]
        bounds = self.row_bounds.tolist()
        return [pieces[first:last] for first, last in pairwise(bounds)]

    def reorder(self, order: IntArray) -> Packing:
        """The same rows in another order. ``order``: (rows,), a permutation."""
        sizes = np.diff(self.row_bounds)[order]
        bounds = np.concatenate(([0], np.cumsum(sizes)))
        within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], sizes)
        index = np.repeat(self.row_bounds[:-1][order], sizes) + within
        return Packing(self.document[index], self.start[index], self.stop[index], bounds)


def pack(lengths: Sequence[int] | npt.NDArray[np.integer], seq_len: int, packer: Packer = "bfd") -> Packing:
    """Pack documents into rows of at most ``seq_len`` tokens; every token of every document is in exactly one row.

    Args:
        lengths: tokens of each document, all positive.
        seq_len: tokens of a row.
        packer: ``"bfd"`` (best-fit decreasing) keeps documents that fit a row whole, unless too many positions would
            be wasted; ``"concat"`` puts documents end to end in their order and cuts at every multiple of ``seq_len``.

    Returns:
        The rows. With ``"bfd"`` they come longest piece first, so shuffle them before use.

    Raises:
        DataError: a length or ``seq_len`` is not positive, or the packer is unknown.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if seq_len < 1 or (len(sizes) and int(sizes.min()) < 1):
        raise DataError(f"packing needs documents and sequences of at least one token, got seq_len {seq_len}")
    if packer == "bfd":
        return _pack_best_fit(sizes, seq_len)
    if packer == "concat":
        return _pack_concat(sizes, seq_len)
    raise DataError(f"unknown packer {packer!r}", hint="use 'bfd' or 'concat'")


def pack_readable(lengths: Sequence[int], seq_len: int, packer: Packer = "bfd") -> list[list[Piece]]:
    """What :func:`pack` computes, in the plainest way; quadratic. See there for arguments."""
    rows: list[list[Piece]] = []
    spaces: list[int] = []
    if packer == "concat":
        space = 0
        for document, length in enumerate(lengths):
            start = 0
            while start < length:
                if space == 0:
                    rows.append([])
                    space = seq_len
                stop = min(length, start + space)
                rows[-1].append(Piece(document, start, stop))
                space -= stop - start
                start = stop
        return rows

    pieces = [
        Piece(document, start, min(length, start + seq_len))
        for document, length in enumerate(lengths)
        for start in range(0, length, seq_len)
    ]
    for piece in sorted(pieces, key=_longest_first):
        size = piece.stop - piece.start
        fitting = [row for row in range(len(rows)) if spaces[row] >= size]
        if fitting:
            row = min(fitting, key=lambda index: spaces[index])  # of equally tight rows, the oldest
        else:
            row = len(rows)
            rows.append([])
            spaces.append(seq_len)
        rows[row].append(piece)
        spaces[row] -= size
    return _fill_gaps_readable(rows, spaces, seq_len)


def _longest_first(piece: Piece) -> tuple[int, int, int]:
    return piece.start - piece.stop, piece.document, piece.start


def _fill_gaps_readable(rows: list[list[Piece]], spaces: list[int], seq_len: int) -> list[list[Piece]]:
    """Break up the emptiest rows if there are too many, and lay their pieces into the others, largest gap first."""
    keep = _most_rows(len(rows) * seq_len - sum(spaces), seq_len)
    fullest_first = sorted(range(len(rows)), key=lambda row: spaces[row])
    kept = sorted(fullest_first[:keep])
    loose = sorted((piece for row in fullest_first[keep:] for piece in rows[row]), key=_longest_first)
    for row in sorted(kept, key=lambda row: -spaces[row]):
        while spaces[row] and loose:
            document, start, stop = loose.pop(0)
            cut = min(stop, start + spaces[row])
            rows[row].append(Piece(document, start, cut))
            spaces[row] -= cut - start
            if cut < stop:
                loose.insert(0, Piece(document, cut, stop))
    return [rows[row] for row in kept]


def _most_rows(tokens: int, seq_len: int) -> int:
    """The most rows that ``tokens`` may take. One more than needed is always allowed: a few texts stay whole."""
    return max(-(-tokens // seq_len) + 1, int(tokens / (MIN_UTILISATION * seq_len)))


def _pack_concat(lengths: IntArray, seq_len: int) -> Packing:
    rows = -(-int(lengths.sum()) // seq_len)
    document, start, stop, row = _lay_end_to_end(lengths, np.full(rows, seq_len))
    return _by_row(document, start, stop, row)


def _pack_best_fit(lengths: IntArray, seq_len: int) -> Packing:
    document, start, size = _split_long(lengths, seq_len)
    order = np.argsort(-size, kind="stable")
    document, start, size = document[order], start[order], size[order]
    row = _Shelves(seq_len).place(size)

    used = np.bincount(row, weights=size).astype(np.int64)
    keep = _most_rows(int(size.sum()), seq_len)
    if len(used) <= keep:
        return _by_row(document, start, start + size, row)
    fullest_first = np.argsort(-used, kind="stable")
    kept = np.sort(fullest_first[:keep])
    gaps_first = kept[np.argsort(used[kept], kind="stable")]
    loose = np.isin(row, fullest_first[keep:])
    item, cut_start, cut_stop, gap = _lay_end_to_end(size[loose], seq_len - used[gaps_first])
    offset = start[loose][item]
    return _by_row(
        np.concatenate((document[~loose], document[loose][item])),
        np.concatenate((start[~loose], offset + cut_start)),
        np.concatenate(((start + size)[~loose], offset + cut_stop)),
        np.concatenate((row[~loose], gaps_first[gap])),
    )


def _by_row(document: IntArray, start: IntArray, stop: IntArray, row: IntArray) -> Packing:
    order = np.argsort(row, kind="stable")
    bounds = np.append(np.flatnonzero(np.diff(row[order], prepend=-1)), len(row))
    return Packing(document[order], start[order], stop[order], bounds)


def _split_long(lengths: IntArray, seq_len: int) -> tuple[IntArray, IntArray, IntArray]:
    """Pieces of at most ``seq_len`` tokens, in document order: their document, start and size."""
    counts = -(-lengths // seq_len)
    document = np.repeat(np.arange(len(lengths)), counts)
    first_piece = np.cumsum(counts) - counts
    start = (np.arange(len(document)) - first_piece[document]) * seq_len
    size = np.minimum(lengths[document] - start, seq_len)
    return document, start, size


def _lay_end_to_end(lengths: IntArray, spaces: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Lay items end to end over spaces, cutting at every end of an item and of a space.

    Args:
        lengths: tokens of each item. (items,)
        spaces: what each space holds; together at least the sum of ``lengths``. (spaces,)

    Returns:
        For each part, in order: the item that it is of, its start and stop within the item, and its space.
    """
    ends, borders = np.cumsum(lengths), np.cumsum(spaces)
    total = int(ends[-1]) if len(ends) else 0
    # Two sorted runs: the stable sort (timsort) merges them in linear time.
    cuts = np.sort(np.concatenate((ends, borders[borders < total])), kind="stable")
    cuts = cuts[np.diff(cuts, prepend=0) > 0]
    first = np.concatenate(([0], cuts))[: len(cuts)]
    item = np.searchsorted(ends, first, side="right")
    offset = (ends - lengths)[item]
    return item, first - offset, cuts - offset, np.searchsorted(borders, first, side="right")


class _Shelves:
    """Open rows, grouped by the space they have left, so that all pieces of one size are placed at once.

    A piece of size ``s`` goes to the oldest row with the least space ``r >= s``. If that row then still has ``s`` or
    more left, it is the tightest of all, because no row had a space between ``s`` and ``r``: the next pieces of this
    size go there too. So each row of shelf ``r`` takes ``r // s`` pieces before the next row gets one, and a whole
    shelf is filled with a few array operations. There are at most ``seq_len`` sizes and shelves, however many pieces.
    """

    def __init__(self, seq_len: int) -> None:
        self.seq_len = seq_len
        self.rows = 0
        self._shelves: list[list[IntArray]] = [[] for _ in range(seq_len + 1)]
        self._occupied = 0
        """Bit r is set while shelf r holds a row: the least space >= s is then one shift away."""

    def place(self, sizes: IntArray) -> IntArray:
        """The row of each piece. ``sizes``: (pieces,), decreasing. Returns (pieces,)."""
        row = np.empty(len(sizes), dtype=np.int64)
        groups = np.flatnonzero(np.diff(sizes, prepend=0, append=0)).tolist()
        for first, last in pairwise(groups):
            size, at = int(sizes[first]), first
            while at < last:
                at += self._fill(row[at:last], size)
        return row

    def _fill(self, target: IntArray, size: int) -> int:
        """Give rows of the best shelf to the next pieces of ``size``; return how many pieces were placed."""
        wanted = len(target)
        fitting = self._occupied >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            rows = self._take(space)
        else:
            space = self.seq_len
            rows = np.arange(self.rows, self.rows - (-wanted // (space // size)))
            self.rows += len(rows)
        each = space // size
        used = rows[: -(-wanted // each)]
        placed = min(wanted, len(used) * each)
        target[:placed] = np.repeat(used, each)[:placed]
        missing = len(used) * each - placed  # the last row may get fewer than it could hold
        whole = used[:-1] if missing else used
        self._put(space - each * size, whole)
        if missing:
            self._put(space - (each - missing) * size, used[-1:])
        self._put(space, rows[len(used) :])
        return placed

    def _take(self, space: int) -> IntArray:
        rows = np.sort(np.concatenate(self._shelves[space]))
        self._shelves[space] = []
        self._occupied &= ~(1 << space)
        return rows

    def _put(self, space: int, rows: IntArray) -> None:
        if space and len(rows):
            self._shelves[space].append(rows)
            self._occupied |= 1 << space
