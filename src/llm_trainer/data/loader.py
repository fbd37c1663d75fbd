"""Batches from a packed cache, in an order that depends on the seed and the number of sequences consumed only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint
from llm_trainer.data.cache import TokenCache
from llm_trainer.data.collate import Batch, collate
from llm_trainer.data.curriculum import Order
from llm_trainer.data.order import EpochOrder
from llm_trainer.data.packing import IntArray
from llm_trainer.data.threads import ThreadedDataLoader


class PackedLoader:
    """Serves a :class:`TokenCache` as batches. ``len(loader)`` is the number of sequences in one epoch, over all ranks.

    There is no state: whoever trains counts the sequences consumed over all ranks and epochs, and :meth:`batches` goes
    on from any count. The count means the same for any batch size, number of workers and number of ranks.

    Args:
        cache: the sequences.
        batch_size: sequences of a micro-batch, on one rank.
        seed: of the order.
        num_workers: background threads that read and collate; 0 does it when a batch is asked for.
        prefetch: batches prepared ahead.
        pin_memory: page-locked batches for faster copies to a GPU; nothing happens on a machine without CUDA.
        rank: this process, from 0.
        world_size: number of processes.
        shuffle: False serves the cache in its own order, again and again.
        epoch_fraction: an epoch ends after this share of the sequences, and the next one goes on from there: another
            part each time, and every sequence is seen once before any is seen twice.
        limit: use only the first sequences of the cache.
        pad_token_id: what stands in padding.
        collator: makes the batches instead of :func:`collate`, from what the cache reads and from the places of those
            sequences in the endless stream, (rows,); with it, the cache may hold anything (:class:`Examples`).

        order: another order than a shuffle, such as a :class:`~llm_trainer.data.curriculum.CurriculumOrder`; it must
            be made for as many sequences as are served.

    Raises:
        DataError: an argument is out of its range.
    """

    def __init__(
        self,
        cache: TokenCache,
        batch_size: int,
        *,
        seed: int = 0,
        num_workers: int = 0,
        prefetch: int = 4,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        epoch_fraction: float = 1.0,
        limit: int | None = None,
        pad_token_id: int = 0,
        collator: Callable[[Any, IntArray], Batch] | None = None,
        order: Order | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, not {batch_size}")
        if not 0 <= rank < world_size:
            raise DataError(f"rank {rank} of {world_size} processes does not exist")
        if not 0 < epoch_fraction <= 1:
            raise DataError(f"epoch_fraction must be above 0 and at most 1, not {epoch_fraction}")
        self.cache = cache
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.pin_memory = pin_memory and torch.cuda.is_available()
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.epoch_fraction = epoch_fraction
        self.limit = limit
        self.pad_token_id = pad_token_id
        self.collator = collator
        self.order = order

    @property
    def sequences(self) -> int:
        """Different sequences that are served."""
        return len(self.cache) if self.limit is None else min(self.limit, len(self.cache))

    def __len__(self) -> int:
        return max(1, round(self.sequences * self.epoch_fraction))

    @property
    def fingerprint(self) -> str:
        """Identity of the sequences served; a checkpoint stores it, and a count means nothing for other ones."""
        served: list[object] = [self.cache.fingerprint, self.sequences]
        return fingerprint(served if self.order is None else [*served, self.order.fingerprint])

    def batches(self, start_sequence: int = 0, stop_sequence: int | None = None) -> Iterator[Batch]:
        """This rank's micro-batches of the endless stream from one count of sequences to another.

        Micro-batch j holds ``batch_size * world_size`` sequences from ``start_sequence + j * batch_size * world_size``
        on, and each rank every ``world_size``-th of them. The last one is shorter if the range does not divide; a rank
        that gets nothing of it is given one row of padding without targets, so that all ranks make equally many steps.

        Args:
            start_sequence: sequences consumed before, over all ranks and epochs.
            stop_sequence: count at which to end; None goes on for ever.
        """
        order = self._order()
        load = ThreadedDataLoader(
            lambda first: self._load(order, first, stop_sequence),
            _starts(start_sequence, stop_sequence, self.batch_size * self.world_size),
            num_workers=self.num_workers,
            prefetch=self.prefetch,
        )
        return iter(load)

    def indices(self, start_sequence: int, count: int) -> IntArray:
        """Which sequences of the cache stand at ``count`` positions of the stream, for all ranks. (count,)"""
        return self._indices(self._order(), start_sequence, count)

    def _order(self) -> Order | EpochOrder | None:
        if self.order is not None:
            return self.order
        return EpochOrder(self.cache.block_starts, self.sequences, self.seed) if self.shuffle else None

    def _indices(self, order: Order | EpochOrder | None, start: int, count: int) -> IntArray:
        if order is None:
            return np.arange(start, start + count, dtype=np.int64) % self.sequences
        return order.indices(start, count)

    def _load(self, order: Order | EpochOrder | None, first: int, stop: int | None) -> Batch:
        count = self.batch_size * self.world_size
        if stop is not None:
            count = min(count, stop - first)
        mine = self._indices(order, first, count)[self.rank :: self.world_size]
        if self.collator is None:
            batch = collate(self.cache.read(mine), self.cache.seq_len, pad_token_id=self.pad_token_id)
        else:
            places = first + self.rank + self.world_size * np.arange(len(mine), dtype=np.int64)
            batch = self.collator(self.cache.read(mine), places)
        if self.pin_memory:
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        return batch


def _starts(start: int, stop: int | None, step: int) -> Iterator[int]:
    while stop is None or start < stop:
        yield start
        start += step
