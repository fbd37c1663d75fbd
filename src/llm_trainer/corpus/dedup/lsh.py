"""Banding: which pairs of signatures are worth comparing, out of the n * n that there are.

Two texts become candidates when they agree in every value of at least one band (Indyk and Motwani 1998). A band is one
sorted array at a time, so that the memory is that of one band, however many documents there are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from llm_trainer.corpus.dedup.minhash import EMPTY, MinHash
from llm_trainer.corpus.dedup.rows import Rows
from llm_trainer.corpus.dedup.shingles import Int64s, UInt64s, mix, mixed_constants

# A bucket of s texts has s * s / 2 pairs, and one template can fill a bucket with a million. Every member is compared
# with the best-ranked few, which will represent it if it is a duplicate, and with those next to it in rank.
ANCHORS = 3
NEIGHBOURS = 2


def bandings(settings: MinHash) -> list[npt.NDArray[np.int64]]:
    """The columns of every band: first ``bands`` x ``rows``, then the second way.

    The second way goes through the columns in another order, so that its bands are no pieces of the first ones; what it
    finds is then nearly independent.
    """
    size = settings.full
    found = list(np.arange(size).reshape(settings.bands, settings.rows))
    if settings.second_rows:
        order = np.argsort(np.array(mixed_constants(0, size), dtype=np.uint64), kind="stable")
        count = size // settings.second_rows
        found += list(order[: count * settings.second_rows].reshape(count, settings.second_rows))
    return found


def candidate_pairs(
    signatures: Rows, order: Int64s, settings: MinHash, *, memory: int
) -> Iterator[tuple[Int64s, Int64s]]:
    """The candidates of one band after another.

    Args:
        signatures: (N, width) uint32.
        order: numbers of the rows to look at, from the highest claim to the lowest.
        settings: bands and rows.
        memory: bytes for the keys of the bands that are read together; at least one band is.

    Yields:
        for every band, (pairs,) the place in ``order`` of the better and of the worse member of each pair.
    """
    bands = bandings(settings)
    together = max(1, min(len(bands), memory // max(8 * len(order), 1)))
    place = np.full(len(signatures), -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    for first in range(0, len(bands), together):
        chosen = bands[first : first + together]
        columns = np.unique(np.concatenate(chosen))
        keys = np.empty((len(chosen), len(order)), dtype=np.uint64)
        usable = np.zeros(len(order), dtype=bool)
        for start, block in signatures.blocks():
            places = place[start : start + len(block)]
            wanted = np.flatnonzero(places >= 0)
            # Transposed, so that a value of all rows is one stretch of memory.
            rows = np.ascontiguousarray(block[np.ix_(wanted, columns)].T)
            places = places[wanted]
            usable[places] = (rows != EMPTY).any(axis=0)
            for number, band in enumerate(chosen):
                keys[number, places] = _band_keys(rows[np.searchsorted(columns, band)])
        for key in keys:
            yield bucket_pairs(key, usable)


def bucket_pairs(keys: UInt64s, usable: npt.NDArray[np.bool_]) -> tuple[Int64s, Int64s]:
    """Pairs with equal keys, at most ``ANCHORS + NEIGHBOURS`` for each place.

    Args:
        keys: (n,) the key of every place; places are in order of their claim.
        usable: (n,) whether the place takes part.

    Returns:
        (pairs,) the better and the worse place of each pair.
    """
    order = np.argsort(keys)
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    shared = np.zeros(len(order), dtype=bool)
    shared[1:] |= same
    shared[:-1] |= same
    order = order[shared]
    order = order[usable[order]]
    order = order[np.lexsort((order, keys[order]))]
    ordered = keys[order]
    count = len(order)
    begins = np.ones(count, dtype=bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    start = np.flatnonzero(begins)[np.cumsum(begins) - 1] if count else np.empty(0, dtype=np.int64)
    here = np.arange(count)
    better, worse = [], []
    for step in range(1, NEIGHBOURS + 1):
        mine = here[here - step >= start]
        better.append(order[mine - step])
        worse.append(order[mine])
    for anchor in range(ANCHORS):
        mine = here[start + anchor < here - NEIGHBOURS]
        better.append(order[start[mine] + anchor])
        worse.append(order[mine])
    return np.concatenate(better), np.concatenate(worse)


def _band_keys(rows: npt.NDArray[np.uint32]) -> UInt64s:
    """(rows, n) values of one band to (n,) keys. Two different bands share a key with a chance of 2**-64."""
    keys = np.zeros(rows.shape[1], dtype=np.uint64)
    for values in rows:
        keys ^= values
        mix(keys)
    return keys
