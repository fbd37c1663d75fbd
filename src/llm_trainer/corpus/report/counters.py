"""Small accumulators that can be filled in pieces and added up: whole numbers inside, so that order never matters.

Floating-point sums depend on the order of their terms in the last digits. A report that is put together by two workers
must equal the one of a single worker, so sums are kept as integers, and samples are chosen by hash.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

_SCALE = 1 << 40  # sums of values are exact to 1e-12 of a unit
_TOGETHER = 4096
_STEPS = 16  # bins in every doubling: a value is known to 3 %


def stable_hash(text: str) -> int:
    """64 bits of a text, equal in every process and on every machine."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


@dataclass
class Lengths:
    """How often each whole number occurred: mean, median and extremes are exact.

    Memory is one entry for each *different* number, so it is bounded by the longest document.
    """

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, value: int) -> None:
        """Count one value."""
        self.counts[value] += 1

    def merge(self, other: Lengths) -> None:
        """Add another unit's counts."""
        self.counts.update(other.counts)

    def summary(self) -> dict[str, float | int]:
        """``mean``, ``median``, ``min`` and ``max``, as ``numpy`` gives them for the list of all values; {} of none."""
        count = self.counts.total()
        if not count:
            return {}
        ordered = sorted(self.counts.items())
        total = sum(value * times for value, times in ordered)
        middle = (_nth(ordered, (count - 1) // 2) + _nth(ordered, count // 2)) / 2
        return {"mean": total / count, "median": middle, "min": ordered[0][0], "max": ordered[-1][0]}

    def histogram(self) -> list[tuple[int, int, int]]:
        """(from, to exclusive, count) in bins a fifth of a power of ten wide, empty ones between them included."""
        if not self.counts:
            return []
        edges = sorted({*(round(10 ** (fifth / 5)) for fifth in range(60)), 0})
        bins = [0] * (len(edges) - 1)
        place = 0
        for value, times in sorted(self.counts.items()):
            while place < len(bins) - 1 and value >= edges[place + 1]:
                place += 1
            bins[place] += times
        used = [index for index, times in enumerate(bins) if times]
        return [(edges[index], edges[index + 1], bins[index]) for index in range(used[0], used[-1] + 1)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        ordered = sorted(self.counts.items())
        return {"values": [value for value, _ in ordered], "counts": [times for _, times in ordered]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Lengths:
        """The inverse of :meth:`to_dict`."""
        return cls(Counter(dict(zip(values["values"], values["counts"], strict=True))))


class Distribution:
    """A stream of real numbers in bins that do not depend on the data: 16 to a doubling, and one for zero.

    Count, sum, least and greatest are exact; everything read off the bins is right to 3 %. Numbers that are not finite
    are counted apart. Values wait until there are some thousands or somebody looks: a document has some forty tags, and
    counting them one by one took longer than most of the filters (measured: 4 us a value; together 0.3 us).

    Attributes:
        bins: number of a bin -> values in it.
        total: sum of the values in units of 2**-40.
        least, greatest: of all values.
        not_finite: values that are no numbers.
        whole: whether all values are whole numbers.
    """

    def __init__(
        self,
        bins: Counter[int] | None = None,
        total: int = 0,
        least: float = math.inf,
        greatest: float = -math.inf,
        not_finite: int = 0,
        whole: bool = True,
    ) -> None:
        self._bins: Counter[int] = bins if bins is not None else Counter()
        self._total, self._least, self._greatest = total, least, greatest
        self._not_finite, self._whole = not_finite, whole
        self._waiting: list[float] = []

    def add(self, value: float) -> None:
        """Count one value."""
        self._waiting.append(value)
        if len(self._waiting) >= _TOGETHER:
            self._settle()

    def merge(self, other: Distribution) -> None:
        """Add another unit's values."""
        self._settle()
        self._bins.update(other.bins)
        self._total += other.total
        self._least = min(self._least, other.least)
        self._greatest = max(self._greatest, other.greatest)
        self._not_finite += other.not_finite
        self._whole = self._whole and other.whole

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Distribution) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def _settle(self) -> None:
        """Count what waits."""
        if not self._waiting:
            return
        values = np.array(self._waiting, dtype=np.float64)
        self._waiting.clear()
        finite = values[np.isfinite(values)]
        self._not_finite += len(values) - len(finite)
        if not len(finite):
            return
        places, times = np.unique(_bins_of(finite), return_counts=True)
        self._bins.update(dict(zip(places.tolist(), times.tolist())))
        # Whole numbers of any size, so that the sum does not depend on the order.
        self._total += sum(map(int, np.rint(finite * _SCALE).tolist()))
        self._least = min(self._least, float(finite.min()))
        self._greatest = max(self._greatest, float(finite.max()))
        self._whole = self._whole and not bool((finite % 1).any())

    @property
    def bins(self) -> Counter[int]:
        """Number of a bin -> values in it."""
        self._settle()
        return self._bins

    @property
    def total(self) -> int:
        """Sum of the values in units of 2**-40."""
        self._settle()
        return self._total

    @property
    def least(self) -> float:
        """The least value; infinity if there is none."""
        self._settle()
        return self._least

    @property
    def greatest(self) -> float:
        """The greatest value; minus infinity if there is none."""
        self._settle()
        return self._greatest

    @property
    def not_finite(self) -> int:
        """Values that are no numbers."""
        self._settle()
        return self._not_finite

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        self._settle()
        return self._whole

    @property
    def count(self) -> int:
        """Finite values."""
        return self.bins.total()

    @property
    def sum(self) -> float:
        """Of all finite values."""
        return self.total / _SCALE

    @property
    def above_zero(self) -> int:
        """How many values were positive."""
        return sum(times for place, times in self.bins.items() if place > 0)

    @property
    def zeros(self) -> int:
        """How many values were zero."""
        return self.bins[0]

    def without_zeros(self) -> Distribution:
        """The bins of all other values; its sum and extremes are this one's."""
        rest = Counter({place: times for place, times in self.bins.items() if place})
        return Distribution(rest, self.total, self.least, self.greatest, whole=self.whole)

    def quantile(self, share: float) -> float:
        """The value below which a share (0..1) of the values lies, to within a bin; whole numbers up to 32 exactly."""
        low, high = _borders_of(_nth(sorted(self.bins.items()), round(share * (self.count - 1))))
        value = (low + high) / 2
        if self.whole:  # the only one in the bin, which begins at its border next to zero, or the one in its middle
            size = math.floor(abs(value))
            value = math.copysign(size if size >= min(abs(low), abs(high)) else size + 1, value)
        return _clamp(value, self)

    def summary(self) -> dict[str, float | int]:
        """Count, mean, least, median, 90th percentile and greatest; only the counts where there is no finite value."""
        if not self.count:
            return {"count": 0, "not_finite": self.not_finite}
        return {
            "count": self.count,
            "mean": self.sum / self.count,
            "min": self.least,
            "median": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "max": self.greatest,
            "above_zero": self.above_zero,
            "not_finite": self.not_finite,
        }

    def histogram(self, edges: Iterable[float]) -> list[int]:
        """Counts between neighbouring edges, the lower one included; the outer bins take everything beyond them.

        Where an edge cuts a bin, the bin's values are taken to be spread evenly over it. Without that, bins that fall
        in between two edges, now one and now two of them, would draw a comb.
        """
        inner = list(edges)[1:-1]
        below = [0.0] * len(inner)
        for place, times in sorted(self.bins.items()):
            low, high = (_clamp(border, self) for border in _borders_of(place))
            for index, edge in enumerate(inner):
                if edge > high or (edge == high and low < high):
                    below[index] += times
                elif edge > low:
                    below[index] += times * (edge - low) / (high - low)
        marks = [0, *(round(value) for value in below), self.count]
        return [after - before for before, after in pairwise(marks)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        ordered = sorted(self.bins.items())
        values: dict[str, Any] = {"bins": [place for place, _ in ordered], "counts": [times for _, times in ordered]}
        if ordered:
            values |= {"total": self.total, "least": self.least, "greatest": self.greatest}
        return values | {"not_finite": self.not_finite, "whole": self.whole}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Distribution:
        """The inverse of :meth:`to_dict`."""
        bins = Counter(dict(zip(values["bins"], values["counts"], strict=True)))
        least, greatest = values.get("least", math.inf), values.get("greatest", -math.inf)
        return cls(bins, values.get("total", 0), least, greatest, values["not_finite"], values["whole"])


@dataclass
class Tally:
    """How often each name occurred, with bounded memory.

    Exact up to ``limit`` different names. Past twice that, the rarest names become ``other``, a number without names;
    from then on a count may be too low, by at most ``other``, and adding up in another order may move some of the
    rarest names.
    """

    limit: int = 10_000
    counts: Counter[str] = field(default_factory=Counter)
    other: int = 0

    def add(self, name: str, times: int = 1) -> None:
        """Count a name."""
        self.counts[name] += times
        if len(self.counts) > 2 * self.limit:
            self._prune()

    def merge(self, other: Tally) -> None:
        """Add another unit's counts."""
        self.counts.update(other.counts)
        self.other += other.other
        if len(self.counts) > 2 * self.limit:
            self._prune()

    def top(self, count: int | None = None) -> list[tuple[str, int]]:
        """The most frequent names, equals in alphabetical order."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:count]

    @property
    def total(self) -> int:
        """Everything that was counted."""
        return self.counts.total() + self.other

    @property
    def entropy(self) -> float:
        """Shannon entropy in bits: 0 if all is one name, ``log2(n)`` for n equal ones. ``other`` counts as one name."""
        total = self.total
        shares = [times / total for times in sorted([*self.counts.values(), self.other]) if times]
        return abs(math.fsum(share * math.log2(share) for share in shares))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"limit": self.limit, "counts": dict(sorted(self.counts.items())), "other": self.other}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tally:
        """The inverse of :meth:`to_dict`."""
        return cls(values["limit"], Counter(values["counts"]), values["other"])

    def _prune(self) -> None:
        kept = self.top(self.limit)
        self.other += self.counts.total() - sum(times for _, times in kept)
        self.counts = Counter(dict(kept))


@dataclass
class Sample:
    """The texts with the ``size`` smallest hashes of their names: chosen as if by chance, yet always the same ones."""

    size: int
    items: dict[int, str] = field(default_factory=dict)
    """Hash of the name -> text."""

    def wants(self, name: str) -> int | None:
        """The hash of the name if a text of that name would be taken now; None if not."""
        place = stable_hash(name)
        if len(self.items) < self.size:
            return place
        return place if self.size and place < max(self.items) else None

    def put(self, place: int, text: str) -> None:
        """Take a text at a place that :meth:`wants` gave."""
        # Of two texts under one name the alphabetically first stays, whichever came first.
        self.items[place] = min(text, self.items.get(place, text))
        if len(self.items) > self.size:
            del self.items[max(self.items)]

    def merge(self, other: Sample) -> None:
        """Keep the smallest of both."""
        for place, text in other.items.items():
            self.put(place, text)

    @property
    def texts(self) -> list[str]:
        """The texts, in the order of their hashes."""
        return [self.items[place] for place in sorted(self.items)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the hashes as text, because other readers of JSON have no 64-bit integers."""
        return {"size": self.size, "items": {f"{place:016x}": self.items[place] for place in sorted(self.items)}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sample:
        """The inverse of :meth:`to_dict`."""
        return cls(values["size"], {int(place, 16): text for place, text in values["items"].items()})


def _nth(ordered: Iterable[tuple[int, int]], index: int) -> int:
    """The value at a place of a sorted list that is given as (value, times)."""
    for value, times in ordered:
        index -= times
        if index < 0:
            return value
    raise IndexError(index)


def _bins_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """0 for zero; 16 bins a doubling from 2**-40 up, negative numbers mirrored. Smaller sizes count as zero."""
    mantissas, exponents = np.frexp(np.abs(values))  # 0.5 <= mantissa < 1
    places = (exponents.astype(np.int64) + 40) * _STEPS + ((mantissas - 0.5) * 2 * _STEPS).astype(np.int64) + 1
    places[(values == 0) | (places < 1)] = 0
    return np.where(values > 0, places, -places)


def _borders_of(place: int) -> tuple[float, float]:
    """Where a bin begins and ends."""
    if place == 0:
        return 0.0, 0.0
    exponent, step = divmod(abs(place) - 1, _STEPS)
    low, high = (math.ldexp(0.5 + border / (2 * _STEPS), exponent - 40) for border in (step, step + 1))
    return (low, high) if place > 0 else (-high, -low)


def _clamp(value: float, within: Distribution) -> float:
    return min(max(value, within.least), within.greatest)
