"""From candidates to clusters: every pair is verified, and every removed text is like the one that is kept for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.dedup.lsh import candidate_pairs
from llm_trainer.corpus.dedup.minhash import MinHash, jaccard
from llm_trainer.corpus.dedup.rows import Rows, ranked
from llm_trainer.corpus.dedup.shingles import Int64s, UInt64s

MEMORY = 1 << 30
_PAIRS_AT_ONCE = 1 << 14
_HOPS = 2


@dataclass(frozen=True)
class Clusters:
    """Which document stands for each.

    Attributes:
        root: (N,) int64: the row that represents each row; a row that is kept represents itself.
        similarity: (N,) float32: of each row to its root; 1 for a row that is kept.
        compared: pairs that were verified.
    """

    root: Int64s
    similarity: npt.NDArray[np.float32]
    compared: int = 0

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: whether the row represents itself."""
        return np.asarray(self.root == np.arange(len(self.root)))


def find_near(
    signatures: npt.NDArray[np.uint32] | Sequence[npt.NDArray[np.uint32]],
    ranks: Int64s,
    settings: MinHash,
    *,
    alive: npt.NDArray[np.bool_] | None = None,
    reference: int = 0,
    shingles_of: Callable[[int], UInt64s] | None = None,
    memory: int = MEMORY,
) -> Clusters:
    """Find near duplicates among signatures.

    A document is removed when it is similar to one of better rank that is *kept*. Similarity is not transitive: were
    whatever is similar joined, a chain of small changes could remove a text in favour of one that it has nothing in
    common with (documents of a template are such chains). The result depends on ranks and signatures alone, not on the
    order of the rows.

    Args:
        signatures: (N, width) uint32 from :meth:`MinHash.signatures`, or one array a unit, perhaps memory-mapped.
        ranks: (N,) int64, unique; the lowest is kept. See :func:`~llm_trainer.corpus.dedup.exact.find_exact`.
        settings: those that the signatures were made with.
        alive: (N,) bool: rows to look at, for example those that are no exact duplicates; all if left out. The others
            represent themselves.
        reference: that many rows at the front belong to a corpus that is only read: they are always kept.
        shingles_of: row -> its set of shingles. When given, estimates within the tolerance of the threshold are decided
            by the true similarity.
        memory: bytes for band keys: how many bands are read together. Besides, about 60 bytes a document and 8 for each
            candidate pair are used.

    Returns:
        the clusters.

    Raises:
        DataError: the signatures were made with other settings.
    """
    table = Rows(signatures)
    if wrong := [part.shape[1] for part in table.parts if part.shape[1] != settings.width]:
        raise DataError(
            f"the signatures have {wrong[0]} columns, those of these settings have {settings.width}",
            hint="make them with the same bands, rows and extra",
        )
    order = ranked(ranks, reference)
    if alive is not None:
        order = order[alive[order]]
    verify = _Verifier(table, order, settings, shingles_of)
    fixed = int((order < reference).sum())
    for better, worse in candidate_pairs(table, order, settings, memory=memory):
        wanted = worse >= fixed
        verify.add(better[wanted], worse[wanted])
    roots, scores = _lead(len(order), *verify.edges())
    for _ in range(_HOPS):
        # A neighbour that was itself removed leads to the text that is kept for it: perhaps that one is similar too.
        better, worse, _ = verify.edges()
        lost = (roots[worse] == worse) & (roots[better] != better)
        if not verify.add(roots[better[lost]], worse[lost]):
            break
        roots, scores = _lead(len(order), *verify.edges())
    result = np.arange(len(table), dtype=np.int64)
    result[order] = order[roots]
    found = np.ones(len(table), dtype=np.float32)
    found[order] = scores
    return Clusters(result, found, verify.compared)


class _Verifier:
    """The pairs that have been compared, and those of them that are similar."""

    def __init__(
        self, signatures: Rows, order: Int64s, settings: MinHash, shingles_of: Callable[[int], UInt64s] | None
    ) -> None:
        self._signatures = signatures
        self._order = order
        self._settings = settings
        self._shingles_of = shingles_of
        self._seen = np.empty(0, dtype=np.int64)
        self._pairs: list[Int64s] = []
        self._scores: list[npt.NDArray[np.float32]] = []

    @property
    def compared(self) -> int:
        return len(self._seen)

    def add(self, better: Int64s, worse: Int64s) -> int:
        """Compare the pairs that are new; the number of similar ones among them."""
        if not len(better):
            return 0
        pairs = np.unique(worse * len(self._order) + better)  # both below 2**31, so this fits
        places = np.searchsorted(self._seen, pairs)
        known = places < len(self._seen)
        known[known] = self._seen[places[known]] == pairs[known]
        pairs, places = pairs[~known], places[~known]
        if not len(pairs):
            return 0
        self._seen = np.insert(self._seen, places, pairs)
        found = 0
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            some = pairs[start : start + _PAIRS_AT_ONCE]
            scores = self._similarity(some)
            similar = scores >= 0
            found += int(similar.sum())
            self._pairs.append(some[similar])
            self._scores.append(scores[similar])
        return found

    def _similarity(self, pairs: Int64s) -> npt.NDArray[np.float32]:
        """Of every pair; -1 where it is not similar."""
        worse, better = np.divmod(pairs, len(self._order))
        left, right = self._order[better], self._order[worse]
        scores = self._settings.similarity(self._signatures.take(left), self._signatures.take(right))
        margin = self._settings.tolerance * self._settings.standard_error
        threshold = self._settings.threshold
        if self._shingles_of is not None:
            for number in np.flatnonzero(np.abs(scores - threshold) <= margin).tolist():
                sets = (self._shingles_of(int(left[number])), self._shingles_of(int(right[number])))
                scores[number] = jaccard(*sets)
            margin = 0.0
        scores[scores < np.float32(threshold - margin)] = -1
        return scores

    def edges(self) -> tuple[Int64s, Int64s, npt.NDArray[np.float32]]:
        """The similar pairs as (better, worse, similarity), by worse and then by better place."""
        if not self._pairs:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        pairs, scores = np.concatenate(self._pairs), np.concatenate(self._scores)
        order = np.argsort(pairs, kind="stable")
        self._pairs, self._scores = [pairs[order]], [scores[order]]
        worse, better = np.divmod(pairs[order], len(self._order))
        return better, worse, scores[order]


def _lead(
    count: int, better: Int64s, worse: Int64s, scores: npt.NDArray[np.float32]
) -> tuple[Int64s, npt.NDArray[np.float32]]:
    """Give every place the best-ranked *kept* place that it is similar to.

    The edges come by the place that may be removed, so whether the better end of an edge is kept has been decided
    before the edge is looked at, and one pass is enough.
    """
    roots = np.arange(count, dtype=np.int64)
    found = np.ones(count, dtype=np.float32)
    removed = bytearray(count)
    for start in range(0, len(better), 1 << 20):
        piece = slice(start, start + (1 << 20))
        chosen = []
        for number, (low, high) in enumerate(zip(better[piece].tolist(), worse[piece].tolist()), start):
            if not removed[low] and not removed[high]:
                removed[high] = 1
                chosen.append(number)
        index = np.array(chosen, dtype=np.int64)
        roots[worse[index]] = better[index]
        found[worse[index]] = scores[index]
    return roots, found
