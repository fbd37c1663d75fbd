"""MinHash: a text as a short row of numbers, of which two texts share as large a part as they share of their shingles.

Broder, "On the resemblance and containment of documents" (1997); 14 x 8 values over runs of five words is the recipe of
FineWeb (Penedo et al. 2024, arXiv:2406.17557).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from llm_trainer.config.base import Int, Settings
from llm_trainer.corpus.dedup.shingles import (
    HashedWords,
    Int64s,
    UInt64s,
    as_table,
    expand,
    mixed_constants,
    similar_hashes,
    window_hashes,
)
from llm_trainer.corpus.words import WordTable

EMPTY = np.uint32(0xFFFFFFFF)
"""Every value of the signature of a text that has no shingle."""

# Shingles hashed at once: 64 K of them (256 KB) stay in the second-level cache (measured: 4 K 46 MB/s of text,
# 16 K 104, 64 K 130 on one core).
_CHUNK = 1 << 16


class MinHash(Settings):
    """How near duplicates are found.

    A text is the set of its runs of ``ngram`` words, normalised as datatrove does it (lower case, no punctuation, no
    accents, every number one word; runs of nothing but numbers are left out, or all tables and sums would be equal);
    two texts are near duplicates when their sets have a Jaccard similarity of at least
    ``threshold``. A text of fewer than ``ngram`` words has no run, hence no near duplicate: only
    :mod:`~llm_trainer.corpus.dedup.exact` removes it.
    """

    VERSION: ClassVar[int] = 2
    """Changes when signatures do."""

    bands: Annotated[Int, Field(ge=1, le=512)] = 14
    """Bands of a signature; texts that agree in a whole band are compared."""

    rows: Annotated[Int, Field(ge=1, le=64)] = 8
    """Values in a band."""

    second_rows: Annotated[Int, Field(ge=0, le=64)] = 7
    """The same values are cut a second way, into bands of so many; 0 for not. 14 x 8 alone finds 92.4 % of the pairs
    with similarity 0.8, both together 99.5 %; the further candidates cost only their verification."""

    extra: Annotated[Int, Field(ge=0, le=1024, multiple_of=4)] = 288
    """Further values, of one byte each, that only verify. With none, a similarity is known to 0.038, with 288 to 0.020:
    of the pairs with similarity 0.7, which are no near duplicates, 40 % or 1 % are then removed."""

    ngram: Annotated[Int, Field(ge=1, le=100)] = 5
    """Words in a shingle."""

    seed: Annotated[Int, Field(ge=0)] = 1
    """Of the hash functions."""

    threshold: Annotated[float, Field(ge=0.1, le=1.0)] = 0.8
    """Jaccard similarity from which on two texts are near duplicates."""

    tolerance: Annotated[float, Field(ge=0.0, le=6.0)] = 2.33
    """Standard errors by which an estimate may fall short of the threshold: it is as often below the truth as above, so
    that without a tolerance half of the pairs at the threshold would be lost. 2.33 loses 1 %."""

    def contradictions(self) -> Iterable[str]:
        """Bands of more values than there are."""
        if self.second_rows > self.full:
            yield f"second_rows ({self.second_rows}) is more than the {self.full} values of all bands"

    @property
    def width(self) -> int:
        """Columns of a signature: the values of the bands, then four of the others in each."""
        return self.full + self.extra // 4

    @property
    def full(self) -> int:
        """Values of a signature that bands are made of, of 32 bits each."""
        return self.bands * self.rows

    @property
    def standard_error(self) -> float:
        """Of an estimated similarity, at the threshold."""
        return math.sqrt(self.threshold * (1 - self.threshold) / (self.full + self.extra))

    def identity(self) -> dict[str, Any]:
        """What signatures depend on; equal identities give equal signatures."""
        return {
            "name": "minhash",
            "version": self.VERSION,
            "values": [self.full, self.extra],
            "ngram": self.ngram,
            "seed": self.seed,
        }

    def signatures(self, texts: Sequence[str] | WordTable) -> npt.NDArray[np.uint32]:
        """The signatures of a batch of texts.

        Args:
            texts: texts, or their words.

        Returns:
            (texts, width) uint32; all :data:`EMPTY` where a text has no shingle.
        """
        shingles, starts = self._shingles(texts)
        return self.sign((shingles >> np.uint64(32)).astype(np.uint32), starts)

    def sign(self, shingles: npt.NDArray[np.uint32], starts: Int64s) -> npt.NDArray[np.uint32]:
        """The same from hashed shingles; see :func:`least_values`."""
        values = least_values(shingles, starts, self.full + self.extra, self.seed)
        if not self.extra:
            return values
        signatures = np.empty((len(values), self.width), dtype=np.uint32)
        signatures[:, : self.full] = values[:, : self.full]
        signatures[:, self.full :] = values[:, self.full :].astype("<u1").view("<u4")
        return signatures

    def similarity(self, left: npt.NDArray[np.uint32], right: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
        """Estimated Jaccard similarity of rows of signatures, (n,) float32.

        The share of equal values; among those of one byte, those that are equal by chance (1 in 256) are taken off
        (Li and Koenig, "b-bit minwise hashing", 2010).
        """
        equal = np.count_nonzero(left[:, : self.full] == right[:, : self.full], axis=1).astype(np.float64)
        if self.extra:
            one, other = (np.ascontiguousarray(rows[:, self.full :]).view(np.uint8) for rows in (left, right))
            equal += (np.count_nonzero(one == other, axis=1) - self.extra / 256) / (1 - 1 / 256)
        return np.asarray(equal / (self.full + self.extra), dtype=np.float32)

    def words(self, texts: Sequence[str] | WordTable) -> HashedWords:
        """The words that shingles are made of."""
        return expand(as_table(texts), similar_hashes)

    def shingle_sets(self, texts: Sequence[str] | WordTable) -> list[UInt64s]:
        """The different shingles of every text, sorted: for the true similarity."""
        shingles, starts = self._shingles(texts)
        return [np.unique(shingles[start:stop]) for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist())]

    def _shingles(self, texts: Sequence[str] | WordTable) -> tuple[UInt64s, Int64s]:
        shingles, starts = window_hashes(self.words(texts), self.ngram)
        said = shingles != _numbers_only(self.ngram)
        if said.all():
            return shingles, starts
        ends = np.zeros(len(said) + 1, dtype=np.int64)
        np.cumsum(said, out=ends[1:])
        return shingles[said], ends[starts]


@lru_cache(maxsize=8)
def _numbers_only(size: int) -> np.uint64:
    """The shingle of ``size`` numbers."""
    words = HashedWords(np.repeat(np.array(similar_hashes("7"), dtype=np.uint64), size), np.array([0, size]))
    shingle: np.uint64 = window_hashes(words, size)[0][0]
    return shingle


def least_values(shingles: npt.NDArray[np.uint32], starts: Int64s, width: int, seed: int) -> npt.NDArray[np.uint32]:
    """The least value of each of ``width`` hash functions over the shingles of every text.

    A function is ``(x ^ c) * a`` modulo 2**32 with odd ``a``: a bijection, so that no two shingles meet, in two
    operations that vectorise.

    Args:
        shingles: (total,) uint32, hashes whose bits are all good, text after text.
        starts: (texts + 1,) int64: where the shingles of each text begin.
        width: number of functions.
        seed: of the functions.
    """
    result = np.full((len(starts) - 1, width), EMPTY, dtype=np.uint32)
    filled = np.flatnonzero(np.diff(starts))
    if not len(filled):
        return result
    begins = starts[filled]
    ends = starts[filled + 1]
    first = 0
    factors, offsets = _functions(seed, width)
    while first < len(filled):
        # Whole texts, as many as fit; a longer one goes alone.
        last = max(first + 1, int(np.searchsorted(ends, begins[first] + _CHUNK, side="right")))
        chunk = shingles[begins[first] : ends[last - 1]]
        places = begins[first:last] - begins[first]
        hashed = np.empty_like(chunk)
        least = np.empty((width, last - first), dtype=np.uint32)
        for number in range(width):
            np.bitwise_xor(chunk, offsets[number], out=hashed)
            np.multiply(hashed, factors[number], out=hashed)
            np.minimum.reduceat(hashed, places, out=least[number])
        result[filled[first:last]] = least.T
        first = last
    return result


def jaccard(left: UInt64s, right: UInt64s) -> float:
    """True Jaccard similarity of two sorted sets of shingles; 0 when both are empty."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / max(len(left) + len(right) - shared, 1)


@lru_cache(maxsize=8)
def _functions(seed: int, width: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Factors (odd) and offsets. Function number i depends on the seed and on i alone, whatever the width."""
    constants = np.array(mixed_constants(seed, width), dtype=np.uint64)
    factors = (constants >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    return factors, constants.astype(np.uint32)
