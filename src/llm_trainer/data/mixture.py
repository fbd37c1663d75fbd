"""Several caches as one stream, in given shares of its tokens.

Which source comes next is decided by the largest deficit: the one that is furthest behind its share. So any stretch of
the stream has the wanted composition, to within one sequence of each source. The choice repeats after ``PERIOD``
sequences, which makes any position of an endless stream reachable at once: as everywhere here, a count is the whole
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint, mix_seed
from llm_trainer.data.cache import TokenCache
from llm_trainer.data.chunk import PackedSequence
from llm_trainer.data.curriculum import Order
from llm_trainer.data.loader import PackedLoader
from llm_trainer.data.order import EpochOrder
from llm_trainer.data.packing import IntArray

PERIOD = 10_000
"""Shares are exact to one part in so many."""


@dataclass(frozen=True)
class MixtureSource:
    """One cache and its part in a mixture.

    Attributes:
        name: for messages and reports.
        cache: the sequences.
        weight: share of the tokens, in any unit.
        max_epochs: after so many passes the source is used up, and the others share its place; None never.
    """

    name: str
    cache: TokenCache
    weight: float
    max_epochs: float | None = None


def temperature_weights(tokens: Sequence[int], temperature: float) -> list[float]:
    """Weights proportional to ``tokens ** (1 / temperature)``: 1 keeps the natural shares, more evens them out (Conneau
    et al. 2019, https://arxiv.org/abs/1911.02116, section 3.1, with alpha = 1 / temperature).

    Raises:
        DataError: the temperature is not above 0.
    """
    if temperature <= 0:
        raise DataError(f"a mixture's temperature must be above 0, not {temperature}")
    scaled = [float(count) ** (1 / temperature) for count in tokens]
    return [value / sum(scaled) for value in scaled]


@dataclass(frozen=True)
class _Phase:
    """A stretch of the stream in which the same sources take part."""

    start: int
    stop: int | None
    pattern: IntArray
    """(PERIOD,), the source of each position."""
    counts: IntArray
    """(sources,), how often each comes in the pattern."""
    before: IntArray
    """(PERIOD,), how often the source of a position came before it in the pattern."""
    base: IntArray
    """(sources,), sequences that each served before this phase."""


class MixtureOrder:
    """Which sequence of which source stands at each position of the stream.

    Args:
        sources: the caches and their shares.
        seed: of each source's own order.
        shuffle: whether each source is shuffled.

    Raises:
        DataError: no source, a weight that is not above 0, or an empty cache.
    """

    def __init__(self, sources: Sequence[MixtureSource], seed: int, *, shuffle: bool = True) -> None:
        _check(sources)
        self._sizes = np.array([len(source.cache) for source in sources], dtype=np.int64)
        self._offsets = np.concatenate(([0], np.cumsum(self._sizes)))
        self._shuffle = shuffle
        self._orders = [
            EpochOrder(source.cache.block_starts, len(source.cache), mix_seed("source", seed, number))
            for number, source in enumerate(sources)
        ]
        per_sequence = np.array([tokens_of(source.cache) / len(source.cache) for source in sources])
        rates = np.array([source.weight for source in sources]) / per_sequence
        shares = rates / rates.sum()
        for source, count in zip(sources, np.bincount(largest_deficit(shares, PERIOD), minlength=len(sources))):
            if not count:
                raise DataError(
                    f"the share of {source.name} is so small that it would never be served "
                    f"(below 1 in {PERIOD:,} sequences)",
                    hint="raise it, or leave that data set out",
                )
        caps = [None if s.max_epochs is None else max(1, round(s.max_epochs * len(s.cache))) for s in sources]
        self._phases = _plan_phases(shares, caps)

    @property
    def total(self) -> int | None:
        """Sequences in the stream; None if it never ends."""
        return self._phases[-1].stop

    def sources(self, start: int, count: int) -> tuple[IntArray, IntArray]:
        """For ``count`` positions: the source, and which sequence of that source's own stream. (count,) each"""
        if self.total is not None and start + count > self.total:
            raise DataError(
                f"the mixture ends after {self.total:,} sequences: all its sources have had their max_epochs",
                hint="train for fewer steps, or raise data.mixture_max_epochs",
            )
        chosen, ordinals = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        positions = np.arange(start, start + count, dtype=np.int64)
        for phase in self._phases:
            mine = positions >= phase.start
            if phase.stop is not None:
                mine &= positions < phase.stop
            periods, within = np.divmod(positions[mine] - phase.start, PERIOD)
            source = phase.pattern[within]
            chosen[mine] = source
            ordinals[mine] = phase.base[source] + periods * phase.counts[source] + phase.before[within]
        return chosen, ordinals

    def indices(self, start: int, count: int) -> IntArray:
        """The sequences at ``count`` positions, numbered through all sources. (count,)"""
        chosen, ordinals = self.sources(start, count)
        result = np.empty(count, dtype=np.int64)
        for number in np.unique(chosen).tolist():
            mine = chosen == number
            first = int(ordinals[mine][0])  # consecutive within a source
            amount = int(mine.sum())
            if self._shuffle:
                own = self._orders[number].indices(first, amount)
            else:
                own = np.arange(first, first + amount, dtype=np.int64) % self._sizes[number]
            result[mine] = self._offsets[number] + own
        return result


def largest_deficit(shares: npt.NDArray[np.float64], length: int) -> IntArray:
    """The source of each of ``length`` positions: always the one furthest behind its share, the first of equals.

    Args:
        shares: (sources,), adding up to 1.
        length: positions.
    """
    # Whole counts first, or the repetition of the pattern would drift.
    ideal = shares * length
    counts = np.floor(ideal).astype(np.int64)
    counts[np.argsort(counts - ideal, kind="stable")[: length - int(counts.sum())]] += 1
    exact = counts / length
    pattern = np.empty(length, dtype=np.int64)
    deficit = np.zeros(len(shares))
    for position in range(length):
        deficit += exact
        source = int(np.argmax(deficit))
        pattern[position] = source
        deficit[source] -= 1
    return pattern


def _plan_phases(shares: npt.NDArray[np.float64], caps: Sequence[int | None]) -> list[_Phase]:
    """One phase until the first source is used up, another until the next is, and so on."""
    phases: list[_Phase] = []
    served = np.zeros(len(shares), dtype=np.int64)
    active = np.ones(len(shares), dtype=bool)
    start = 0
    while active.any():
        current = np.where(active, shares, 0.0)
        pattern = largest_deficit(current / current.sum(), PERIOD)
        counts = np.bincount(pattern, minlength=len(shares))
        before = np.empty(PERIOD, dtype=np.int64)
        length: int | None = None
        for source, cap in enumerate(caps):
            places = np.flatnonzero(pattern == source)
            before[places] = np.arange(len(places))
            if cap is not None and len(places):
                # Up to the place where this source would be asked for one sequence too many.
                periods, rest = divmod(cap - int(served[source]), len(places))
                end = periods * PERIOD + int(places[rest])
                length = end if length is None else min(length, end)
        phases.append(_Phase(start, None if length is None else start + length, pattern, counts, before, served.copy()))
        if length is None:
            break
        periods, rest = divmod(length, PERIOD)
        served += periods * counts + np.bincount(pattern[:rest], minlength=len(shares))
        active &= np.array([cap is None or served[source] < cap for source, cap in enumerate(caps)])
        start += length
    return phases


class _JoinedCache:
    """The sequences of several caches, numbered through."""

    def __init__(self, sources: Sequence[MixtureSource]) -> None:
        self._caches = [source.cache for source in sources]
        self._bounds = np.concatenate(([0], np.cumsum([len(cache) for cache in self._caches])))
        self.seq_len = self._caches[0].seq_len

    def __len__(self) -> int:
        return int(self._bounds[-1])

    @property
    def fingerprint(self) -> str:
        return fingerprint([cache.fingerprint for cache in self._caches])

    def read(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[PackedSequence]:
        wanted = np.asarray(indices, dtype=np.int64)
        chosen = np.searchsorted(self._bounds, wanted, side="right") - 1
        result: list[PackedSequence | None] = [None] * len(wanted)
        for number in np.unique(chosen).tolist():
            places = np.flatnonzero(chosen == number)
            read = self._caches[number].read(wanted[places] - self._bounds[number])
            for place, sequence in zip(places.tolist(), read, strict=True):
                result[place] = sequence
        return [sequence for sequence in result if sequence is not None]


class MixtureLoader(PackedLoader):
    """Serves a mixture. An epoch is as many sequences as the sources have together.

    Args:
        sources: the caches, of one tokenizer and sequence length.
        batch_size: sequences of a micro-batch, on one rank.
        options: those of :class:`PackedLoader`.

    Raises:
        DataError: the sources do not go together.
    """

    def __init__(self, sources: Sequence[MixtureSource], batch_size: int, **options: Any) -> None:
        self.sources = list(sources)
        joined: Any = _JoinedCache(_check(self.sources))
        super().__init__(joined, batch_size, **options)
        self._mixed = MixtureOrder(self.sources, self.seed, shuffle=self.shuffle)

    @property
    def total(self) -> int | None:
        """Sequences in the whole stream, all epochs together; None if no source is ever used up."""
        return self._mixed.total

    def __len__(self) -> int:
        length = super().__len__()
        return length if self._mixed.total is None else min(length, self._mixed.total)

    @property
    def fingerprint(self) -> str:
        """Identity of the sequences and of their order."""
        how = [[source.weight, source.max_epochs] for source in self.sources]
        return fingerprint([self.cache.fingerprint, how])

    def composition(self, start: int, count: int) -> dict[str, float]:
        """The share of the tokens of each source in a stretch of the stream, from the mean length of its sequences."""
        chosen, _ = self._mixed.sources(start, count)
        sequences = np.bincount(chosen, minlength=len(self.sources))
        tokens = [n * tokens_of(s.cache) / len(s.cache) for n, s in zip(sequences.tolist(), self.sources, strict=True)]
        return {source.name: size / sum(tokens) for source, size in zip(self.sources, tokens, strict=True)}

    def _indices(self, order: Order | EpochOrder | None, start: int, count: int) -> IntArray:
        return self._mixed.indices(start, count)

    def _order(self) -> Order | EpochOrder | None:
        return None


def tokens_of(cache: TokenCache) -> int:
    """All tokens in a cache."""
    return sum(chunk.tokens for chunk in cache.manifest.chunks)


def _check(sources: Sequence[MixtureSource]) -> Sequence[MixtureSource]:
    if not sources:
        raise DataError("a mixture needs at least one source")
    first = sources[0].cache.manifest.origin.config
    for source in sources:
        config = source.cache.manifest.origin.config
        if not source.weight > 0:
            raise DataError(f"the weight of {source.name} must be above 0, not {source.weight}")
        if source.max_epochs is not None and not source.max_epochs > 0:
            raise DataError(f"max_epochs of {source.name} must be above 0, not {source.max_epochs}")
        if not len(source.cache):
            raise DataError(f"{source.name} has no sequences to mix in")
        if (config.tokenizer, config.seq_len) != (first.tokenizer, first.seq_len):
            raise DataError(
                f"{source.name} has sequences of {config.seq_len} tokens of tokenizer {config.tokenizer}, "
                f"{sources[0].name} of {first.seq_len} tokens of {first.tokenizer}",
                hint="pack all sources of a mixture with the same tokenizer and length",
            )
    return sources
