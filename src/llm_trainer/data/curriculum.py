"""Other orders than a shuffle: from easy to hard, and batches of equal length.

Like :class:`~llm_trainer.data.order.EpochOrder`, each is a function of seed and position alone, so a run that is
resumed with one goes on exactly. Give one to :class:`~llm_trainer.data.loader.PackedLoader` as ``order``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint, hash_bytes
from llm_trainer.data.cache import TokenCache
from llm_trainer.data.order import stable_permutation
from llm_trainer.data.packing import IntArray

MIXED = 1024
"""Sequences of like difficulty that are shuffled among each other: a batch should not be of one kind only."""
POOL_BATCHES = 50
"""Batches that are sorted by length together. More would pad less and shuffle less."""


class Order(Protocol):
    """Which sequence stands at each position of an endless stream."""

    @property
    def fingerprint(self) -> str:
        """Changes when the order does."""
        ...

    def indices(self, start: int, count: int) -> IntArray:
        """The sequences at ``count`` positions from ``start`` on. (count,)"""
        ...


class _ByEpoch:
    """An order that is made anew for each epoch."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def _make_epoch(self, epoch: int) -> IntArray:
        raise NotImplementedError

    def indices(self, start: int, count: int) -> IntArray:
        """The sequences at ``count`` positions from ``start`` on. (count,)"""
        parts: list[IntArray] = []
        position, stop = start, start + count
        while position < stop:
            epoch, within = divmod(position, self._count)
            parts.append(self._epoch(epoch)[within : within + stop - position])
            position += len(parts[-1])
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


class CurriculumOrder(_ByEpoch):
    """From low scores to high ones, in the first epochs; shuffled afterwards.

    Args:
        scores: one for each sequence: its length, its loss under a smaller model, the number of its domain...
        seed: of the shuffling among neighbours.
        epochs: how many epochs go from low to high (Bengio et al. 2009, "Curriculum learning", ICML).
        mixed: so many neighbours by score are shuffled among each other.

    Raises:
        DataError: there are no scores, or one is not a number.
    """

    def __init__(self, scores: npt.ArrayLike, *, seed: int = 0, epochs: int = 1, mixed: int = MIXED) -> None:
        self._scores = np.asarray(scores, dtype=np.float64)
        if self._scores.ndim != 1 or not len(self._scores) or not np.isfinite(self._scores).all():
            raise DataError("a curriculum needs one finite score for each sequence")
        super().__init__(len(self._scores))
        self._seed, self._sorted_epochs, self._mixed = seed, epochs, max(1, mixed)

    @property
    def fingerprint(self) -> str:
        """Changes with the scores and with how they are used."""
        return fingerprint(["curriculum", hash_bytes(self._scores.tobytes()), self._sorted_epochs, self._mixed])

    def _make_epoch(self, epoch: int) -> IntArray:
        shuffled = stable_permutation(self._count, "curriculum", self._seed, epoch)
        if epoch >= self._sorted_epochs:
            return shuffled
        ordered = shuffled[np.argsort(self._scores[shuffled], kind="stable")]
        for number, first in enumerate(range(0, self._count, self._mixed)):
            part = ordered[first : first + self._mixed]
            mixed = stable_permutation(len(part), "mixed", self._seed, epoch, number)
            ordered[first : first + self._mixed] = part[mixed]
        return ordered


class BucketOrder(_ByEpoch):
    """Shuffled batches of sequences of nearly equal length, so that little of a batch is padding.

    Args:
        lengths: of the sequences.
        batch_size: sequences of a batch over all ranks.
        seed: of the shuffling.

    Raises:
        DataError: there are no sequences, or the batch is empty.
    """

    def __init__(self, lengths: npt.ArrayLike, batch_size: int, *, seed: int = 0) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)
        if self._lengths.ndim != 1 or not len(self._lengths) or batch_size < 1:
            raise DataError("batches by length need the length of each sequence, and at least one a batch")
        super().__init__(len(self._lengths))
        self._batch_size, self._seed = batch_size, seed

    @property
    def fingerprint(self) -> str:
        """Changes with the lengths and the batch."""
        return fingerprint(["buckets", hash_bytes(self._lengths.tobytes()), self._batch_size])

    def _make_epoch(self, epoch: int) -> IntArray:
        order = stable_permutation(self._count, "pool", self._seed, epoch)
        pool = POOL_BATCHES * self._batch_size
        pools = np.arange(self._count) // pool
        # Within each pool by length; positions stay in their pool.
        order = order[np.lexsort((self._lengths[order], pools))]
        whole = self._count // self._batch_size
        batches = order[: whole * self._batch_size].reshape(whole, self._batch_size)
        batches = batches[stable_permutation(whole, "batches", self._seed, epoch)] if whole else batches
        return np.concatenate((batches.ravel(), order[whole * self._batch_size :]))


def mean_document_length(cache: TokenCache) -> npt.NDArray[np.float64]:
    """For each sequence of a cache, the mean length of the documents in it: a score for :class:`CurriculumOrder`."""
    return np.array([len(s.tokens) / len(s.piece_lengths) for s in cache.read(range(len(cache)))])
