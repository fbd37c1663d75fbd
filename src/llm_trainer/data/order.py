"""The order of training is a function of the seed and a count, and of nothing else.

Position ``g`` of the endless stream is position ``g % n`` of epoch ``g // n``. Within an epoch, blocks of neighbouring
sequences are shuffled, and then the sequences of every ``window`` shuffled blocks. A reader so keeps only one window of
decompressed blocks, and a batch still mixes sequences from that many places of the corpus. There is no state to save
but the count, and workers, batch size and ranks cannot change the order.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import mix_seed
from llm_trainer.data.packing import IntArray

WINDOW_BLOCKS = 64
"""Blocks shuffled together: 1,024 sequences from 64 places."""


def stable_permutation(count: int, *seed: int | str) -> IntArray:
    """A permutation of ``range(count)`` that depends on ``seed`` only. (count,)

    NumPy keeps the raw output of a bit generator for ever, but may change ``Generator.permutation`` in any version
    (NEP 19), and a run must be resumable after an upgrade. So this sorts raw output instead.
    """
    return np.argsort(np.random.PCG64(mix_seed(*seed)).random_raw(count), kind="stable")


class EpochOrder:
    """The shuffled order of ``n`` sequences, epoch after epoch, with random access.

    Args:
        block_starts: the first sequence of every block, increasing from 0. (blocks,)
        sequences: ``n``, the number of sequences.
        seed: another seed gives another order.
        window: blocks whose sequences are mixed.

    Raises:
        DataError: there are no sequences.
    """

    def __init__(self, block_starts: npt.ArrayLike, sequences: int, seed: int, *, window: int = WINDOW_BLOCKS) -> None:
        if sequences < 1:
            raise DataError("there are no sequences to put in order")
        starts = np.asarray(block_starts, dtype=np.int64)
        self._bounds = np.append(starts[starts < sequences], sequences)
        self._sequences = sequences
        self._seed = seed
        self._window = window
        # Two epochs and a few windows are in use at once where a batch spans their border.
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._mixed = lru_cache(maxsize=8)(self._make_window)

    def __len__(self) -> int:
        return self._sequences

    def indices(self, start: int, count: int) -> IntArray:
        """The sequences at positions ``start`` to ``start + count`` of the endless stream. (count,)"""
        parts: list[IntArray] = []
        position, stop = start, start + count
        while position < stop:
            epoch, within = divmod(position, self._sequences)
            _, window_ends = self._epoch(epoch)
            window = int(np.searchsorted(window_ends, within, side="right"))
            offset = within - (int(window_ends[window - 1]) if window else 0)
            parts.append(self._mixed(epoch, window)[offset : offset + stop - position])
            position += len(parts[-1])
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def _make_epoch(self, epoch: int) -> tuple[IntArray, IntArray]:
        """The blocks in the order of this epoch, and the position at which each window ends."""
        blocks = stable_permutation(len(self._bounds) - 1, "blocks", self._seed, epoch)
        ends = np.cumsum(np.diff(self._bounds)[blocks])
        return blocks, np.append(ends[self._window - 1 : -1 : self._window], ends[-1])

    def _make_window(self, epoch: int, window: int) -> IntArray:
        """The sequences of one window of blocks, mixed."""
        blocks, _ = self._epoch(epoch)
        chosen = blocks[window * self._window : (window + 1) * self._window]
        sequences = np.concatenate([np.arange(self._bounds[block], self._bounds[block + 1]) for block in chosen])
        return sequences[stable_permutation(len(sequences), "window", self._seed, epoch, window)]
