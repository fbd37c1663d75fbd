"""Train on a cache while it is being packed.

A pass over the text is a list of segments. A segment is what had arrived when it began: some chunks, shuffled among
themselves, and never touched again. When one ends, the chunks that have arrived since make the next; when none have,
the next pass begins, over everything. So each chunk is served once in each pass, and the whole state is the list of
segments, which never changes but at its end, and the number of sequences served.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.hashing import fingerprint, mix_seed
from llm_trainer.common.leases import held_leases
from llm_trainer.data.cache import TokenCache, check_expectations
from llm_trainer.data.chunk import ChunkReader
from llm_trainer.data.collate import Batch
from llm_trainer.data.curriculum import Order
from llm_trainer.data.loader import PackedLoader
from llm_trainer.data.manifest import Manifest, origin_of
from llm_trainer.data.order import EpochOrder
from llm_trainer.data.packing import IntArray
from llm_trainer.data.plan import Plan

QUIET_SECONDS = 30.0
"""A packer that neither holds a lease nor wrote a chunk for so long is gone."""


class GrowingCache(TokenCache):
    """The chunks of a plan that are there, in the order in which they were taken in.

    Use :meth:`open_growing`; a finished cache is simply one in which nothing is missing.

    Attributes:
        plan: all that there will be.
        units: the units taken in, in order: their chunks are ``manifest.chunks``.
        damaged: units whose chunk is there and cannot be used, and why.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        super().__init__(folder, Manifest(plan.origin, ()))
        self.plan = plan
        self.units: list[int] = []
        self.damaged: dict[int, str] = {}

    @classmethod
    def open_growing(
        cls, folder: str | Path, *, expect_tokenizer: str | None = None, expect_seq_len: int | None = None
    ) -> GrowingCache:
        """Open a cache that may be unfinished; nothing is taken in yet.

        Args and errors are those of :meth:`TokenCache.open`.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"there is no cache at {folder}", hint="make one: llm-trainer data pack --help")
        plan = Plan.read(folder)
        check_expectations(folder, plan.origin.config, expect_tokenizer, expect_seq_len)
        return cls(folder, plan)

    @property
    def fingerprint(self) -> str:
        """Identity of the tokens that the finished cache will hold."""
        return self.plan.fingerprint

    @property
    def complete(self) -> bool:
        """Whether everything planned was taken in."""
        return len(self.units) == len(self.plan.units)

    def arrived(self) -> list[int]:
        """Units that are there and were not taken in yet. Damaged ones are noted in :attr:`damaged`."""
        taken = set(self.units)
        there = {path.name for path in self.folder.glob("chunk-*.tok")}
        found = []
        for unit in self.plan.units:
            path = self.plan.path(self.folder, unit)
            if unit.number in taken or path.name not in there:
                continue
            try:
                reader = ChunkReader(path)
            except CorruptionError as error:
                self.damaged[unit.number] = error.message
                continue
            made_of = reader.info.documents, reader.info.text_bytes
            others = origin_of(reader.metadata, path).differences(self.plan.origin)
            if others or made_of != (unit.documents, unit.text_bytes) or reader.metadata["unit"] != unit.number:
                self.damaged[unit.number] = f"{path} is a chunk of another cache"
                continue
            found.append(unit.number)
        return found

    def take(self, units: list[int]) -> None:
        """Take units in, in this order.

        Raises:
            CorruptionError: the chunk of one is missing or damaged.
        """
        paths = [self.plan.path(self.folder, self.plan.units[unit]) for unit in units]
        self._append([ChunkReader(path).info for path in paths])
        self.units.extend(units)
        for unit in units:
            self.damaged.pop(unit, None)

    def is_being_packed(self) -> bool:
        """Whether someone seems to be packing: a live lease, or a chunk that is seconds old."""
        if held_leases(self.folder):
            return True
        newest = 0.0
        for path in self.folder.glob("chunk-*.tok"):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, or a dead link
                newest = max(newest, path.stat().st_mtime)
        return time.time() - newest < QUIET_SECONDS

    def planned_sequences(self) -> int:
        """How many sequences the finished cache will hold, from the text that is in chunks already."""
        seen = sum(chunk.text_bytes for chunk in self.manifest.chunks)
        if self.complete or not seen:
            return len(self)
        return max(len(self), round(len(self) * self.plan.text_bytes / seen))


@dataclass(frozen=True)
class Segment:
    """Chunks ``first`` to ``stop`` (exclusive, in the order taken in), served in pass ``number`` over the text."""

    number: int
    first: int
    stop: int


class GrowingLoader(PackedLoader):
    """Serves a :class:`GrowingCache`. The arguments are those of :class:`PackedLoader`.

    ``batches`` ends where the last segment does; :meth:`grow` adds one. ``len(loader)`` is the number of sequences of
    one epoch over what has been taken in so far.
    """

    cache: GrowingCache

    def __init__(self, cache: GrowingCache, batch_size: int, **options: Any) -> None:
        if options.get("limit") is not None or options.get("order") is not None:
            raise DataError("a growing cache is served whole and in an order of its own: leave limit and order out")
        super().__init__(cache, batch_size, **options)
        self.segments: list[Segment] = []
        self._ends = np.zeros(1, dtype=np.int64)
        self._segment_order = lru_cache(maxsize=4)(self._make_order)

    @property
    def fingerprint(self) -> str:
        """Identity of the sequences that will be served; the same however many chunks there are yet."""
        return fingerprint([self.cache.fingerprint, "growing"])

    @property
    def known(self) -> int:
        """Sequences in all segments so far: up to here, the stream is fixed for ever."""
        return int(self._ends[-1])

    def grow(self, units: list[int]) -> None:
        """Begin a segment of new units; without any, the next pass over all that there is.

        Raises:
            DataError: there is nothing to serve.
        """
        first = len(self.cache.units)
        self.cache.take(units)
        stop = len(self.cache.units)
        if not stop:
            raise DataError(
                f"{self.cache.folder} holds no chunk yet", hint="start packing first: llm-trainer data pack --help"
            )
        number = self.segments[-1].number if self.segments else 0
        if not units:
            number, first = number + 1, 0
        self._add(Segment(number, first, stop))

    def _add(self, segment: Segment) -> None:
        self.segments.append(segment)
        self._ends = np.append(self._ends, self.known + len(self._range(segment)))

    def _range(self, segment: Segment) -> range:
        starts = self.cache.chunk_starts
        return range(int(starts[segment.first]), int(starts[segment.stop]))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the number of sequences served."""
        return {"units": list(self.cache.units), "segments": [[s.number, s.first, s.stop] for s in self.segments]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; chunks that have arrived since wait for the next segment.

        Raises:
            CorruptionError: a chunk that was served before is gone or damaged.
        """
        if self.cache.units != state["units"][: len(self.cache.units)]:
            # Nothing has been served yet: begin again with the order of the checkpoint.
            self.cache = GrowingCache(self.cache.folder, self.cache.plan)
        self.cache.take(state["units"][len(self.cache.units) :])
        self.segments, self._ends = [], np.zeros(1, dtype=np.int64)
        for values in state["segments"]:
            self._add(Segment(*values))
        self._segment_order.cache_clear()

    def batches(self, start_sequence: int = 0, stop_sequence: int | None = None) -> Iterator[Batch]:
        """As :meth:`PackedLoader.batches`, up to the end of the last segment."""
        if not self.segments:
            self.grow(self.cache.arrived())
        stop = self.known if stop_sequence is None else min(stop_sequence, self.known)
        return super().batches(start_sequence, stop)

    def indices(self, start_sequence: int, count: int) -> IntArray:
        """Which sequences stand at ``count`` positions of the stream; all of them must be known."""
        return self._indices(None, start_sequence, count)

    def _order(self) -> Order | EpochOrder | None:
        return None

    def _indices(self, order: Order | EpochOrder | None, start: int, count: int) -> IntArray:
        parts: list[IntArray] = []
        position, stop = start, start + count
        while position < stop:
            index = int(np.searchsorted(self._ends, position, side="right")) - 1
            within, size = position - int(self._ends[index]), int(self._ends[index + 1] - self._ends[index])
            taken = min(stop - position, size - within)
            parts.append(self._served(index, within, taken))
            position += taken
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def _served(self, index: int, within: int, count: int) -> IntArray:
        sequences = self._range(self.segments[index])
        if not self.shuffle:
            return np.arange(sequences.start + within, sequences.start + within + count, dtype=np.int64)
        segment = self.segments[index]
        # A pass over everything is the epoch of that number of a finished cache: the two train alike.
        past = segment.number * len(sequences) if segment.first == 0 else 0
        return sequences.start + self._segment_order(index).indices(past + within, count)

    def _make_order(self, index: int) -> EpochOrder:
        segment, sequences = self.segments[index], self._range(self.segments[index])
        blocks = self.cache.block_starts
        first, last = np.searchsorted(blocks, [sequences.start, sequences.stop])
        seed = self.seed if segment.first == 0 else mix_seed("segment", self.seed, segment.number, segment.first)
        return EpochOrder(blocks[first:last] - sequences.start, len(sequences), seed)
