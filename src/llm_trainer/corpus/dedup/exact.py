"""Exact duplicates: texts that are equal but for case, spaces and the way their accents are encoded."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from llm_trainer.corpus.dedup.rows import Rows, ranked

VERSION = 1
"""Changes when keys do; part of the identity of files that hold them."""

PARTITION_ROWS = 1 << 24
"""Keys sorted at once: about 1 GB of work memory."""


def normalised(text: str) -> str:
    """What two texts must have in common to be exact duplicates.

    Unicode NFC, then case-folded (``"ß"`` is ``"ss"``), NFC again, then every run of white space (Unicode's, line ends
    included) one space, none at the ends. Punctuation and digits count.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFC", text).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def exact_keys(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """The keys of texts: equal keys mean equal normalised texts.

    Returns:
        (n, 2) uint64: the xxh3-128 of the UTF-8 of each :func:`normalised` text, high half first. Among 10**11 texts
        the chance that any two different ones agree is below 2e-17.
    """
    digests = [xxhash.xxh3_128_digest(normalised(text).encode("utf-8", "surrogatepass")) for text in texts]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def find_exact(
    keys: npt.NDArray[np.uint64] | Sequence[npt.NDArray[np.uint64]],
    ranks: npt.NDArray[np.int64],
    *,
    reference: int = 0,
    partition_rows: int = PARTITION_ROWS,
) -> npt.NDArray[np.int64]:
    """Which document stands for each.

    The keys are sorted a range at a time, so that besides ``ranks`` and the result (16 bytes a document) only
    ``partition_rows`` keys are in memory; the key files are read once for each range.

    Args:
        keys: (N, 2) uint64 from :func:`exact_keys`, or one array a unit, perhaps memory-mapped.
        ranks: (N,) int64, unique: among equals the lowest is kept. Make them from (priority of the source, order of the
            source, order of the document); then a copy is removed from the source that matters less.
        reference: that many rows at the front belong to a corpus that is only read: none of them is ever a duplicate,
            and they go before all others.
        partition_rows: about how many keys to sort at once.

    Returns:
        (N,) int64: the row of the document that represents each; a row that is kept represents itself.
    """
    table = Rows(keys)
    total = len(table)
    roots = np.arange(total, dtype=np.int64)
    bits = max(0, (total // max(partition_rows, 1)).bit_length())
    for prefix in range(1 << bits):
        numbers, found = [], []
        for start, block in table.blocks():
            if bits:
                mine = np.flatnonzero(block[:, 0] >> np.uint64(64 - bits) == prefix)
                numbers.append(mine + start)
                found.append(block[mine])
            else:
                numbers.append(np.arange(start, start + len(block)))
                found.append(block)
        if found:
            _resolve(np.concatenate(numbers), np.concatenate(found), ranks, reference, roots)
    return roots


def _resolve(
    rows: npt.NDArray[np.int64],
    keys: npt.NDArray[np.uint64],
    ranks: npt.NDArray[np.int64],
    reference: int,
    roots: npt.NDArray[np.int64],
) -> None:
    """Write the representatives of one partition into ``roots``."""
    if not len(rows):
        return
    # Most keys are alone: find the others by sorting one half of the key, which is the fastest sort there is.
    order = np.argsort(keys[:, 0])
    first = keys[order, 0]
    same = first[1:] == first[:-1]
    shared = np.zeros(len(order), dtype=bool)
    shared[1:] |= same
    shared[:-1] |= same
    order = order[shared]
    if not len(order):
        return
    rows, keys = rows[order], keys[order]
    claim = np.empty(len(rows), dtype=np.int64)
    claim[ranked_rows(rows, ranks, reference)] = np.arange(len(rows))
    order = np.lexsort((claim, keys[:, 1], keys[:, 0]))
    rows, keys = rows[order], keys[order]
    begins = np.ones(len(rows), dtype=bool)
    begins[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    representative = rows[begins][np.cumsum(begins) - 1]
    changed = rows >= reference
    roots[rows[changed]] = representative[changed]


def ranked_rows(rows: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64], reference: int) -> npt.NDArray[np.int64]:
    """The order of some rows by their claim: those of the reference first, then by rank."""
    order = np.argsort(rows, kind="stable")
    inside = int(np.searchsorted(rows[order], reference))
    return order[ranked(ranks[rows[order]], inside)]
