"""The merge loop of BPE training on whole arrays: many merges in one sweep. Equal to ``bpe_plain.train_merges``.

**Text as arrays.** The tokens of all different words lie in one array, with a ``-1`` before and after each word.
``next`` and ``previous`` link each token to its neighbours, so joining two takes three writes, wherever they stand and
however long the word is.

**Counts are looked up, not kept up.** All places of a pair come into being at once, when the younger of its tokens
does; afterwards they can only disappear. So a pair is counted when it appears, waits in a heap under that count, and is
counted again when it comes to the top. A pair on top whose count is still right is the most frequent one.

**Many merges in one sweep.** The next pairs of the heap are the next merges as long as

1. no token is the left one of one pair and the right one of another: only then does a merge change another's count;
2. no pair that one of the merges creates comes before the merges that follow it.

Both are checked before anything is changed, and the sweep ends where one fails. Early merges have many places each and
go a few at a time; later ones have a few dozen, and sweeps of twenty or so make up for what each call of numpy costs.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import DataError
from llm_trainer.tokenizer.vocabulary import BYTES_IN_ORDER

Int64s = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]
"""Indices into the array of tokens."""

_OUTSIDE = -1  # the token before and after a word
_GONE = -2  # a token that was joined to the one on its left

_TOKEN_BITS = 20
_TOKEN_MASK = (1 << _TOKEN_BITS) - 1
MAX_TOKENS = 1 << _TOKEN_BITS

# An entry of the heap is one integer, smaller and faster to compare than a tuple. From the top: by how much the count
# falls short of _MOST (so the smallest entry has the largest count), the pair as left << 20 | right, and the number
# under which the places of the pair are stored.
_MOST = 1 << 62
_NUMBER_BITS = 32
_NUMBER_MASK = (1 << _NUMBER_BITS) - 1
_COUNT_SHIFT = 2 * _TOKEN_BITS + _NUMBER_BITS

# How many pairs are counted again for one sweep; most turn out to have become rarer, so about a third is merged. 32,000
# merges of 50 MB take 1.3 s of one core with 32 or 64, 2.2 s with 8 and 1.7 s with 256. It starts small and grows by 1
# with so many merges, because to count an early pair again takes long.
_FIRST_SWEEP = 2
_LARGEST_SWEEP = 64
_SWEEP_GROWS_EVERY = 32


def _entry(count: int, pair: int, number: int) -> int:
    return (_MOST - count) << _COUNT_SHIFT | pair << _NUMBER_BITS | number


def _count_of(entry: int) -> int:
    return _MOST - (entry >> _COUNT_SHIFT)


def _tokens_of(entry: int) -> tuple[int, int]:
    return entry >> (_NUMBER_BITS + _TOKEN_BITS) & _TOKEN_MASK, entry >> _NUMBER_BITS & _TOKEN_MASK


@dataclass(frozen=True)
class _Groups:
    """Pairs and where they stand: pair ``i`` at ``places[starts[i] : stops[i]]``."""

    pairs: Int64s  # (n,): left << 20 | right
    counts: Int64s  # (n,): occurrences in the whole text
    starts: Int64s  # (n,)
    stops: Int64s  # (n,)
    places: Places  # of the left token

    @property
    def youngest(self) -> Int64s:
        """The larger id of each pair, (n,)."""
        youngest: Int64s = np.maximum(self.pairs >> _TOKEN_BITS, self.pairs & _TOKEN_MASK)
        return youngest


class MergeLoop:
    """Learns merges from counted words.

    Args:
        word_counts: pre-tokens as bytes -> how often each occurs.
        min_frequency: pairs that occur less often are not merged.

    Raises:
        DataError: the words have more bytes than 32-bit indices can number.
    """

    def __init__(self, word_counts: Mapping[bytes, int], min_frequency: int) -> None:
        self._min_frequency = min_frequency
        self._vocab_size = 256
        self._set_text(word_counts)
        self._heap: list[int] = []
        self._pool: Places = np.empty(len(self._tokens), np.int32)
        self._pool_used = 0
        self._starts, self._stops = array("q"), array("q")  # number of a heap entry -> its stretch of the pool
        self._offer(self._pairs_of_bytes())

    def _set_text(self, word_counts: Mapping[bytes, int]) -> None:
        text = np.frombuffer(b"".join(word_counts), np.uint8)
        size = len(text) + len(word_counts) + 1
        if size > np.iinfo(np.int32).max:
            raise DataError(f"the different words of the text have {size:,} bytes, too many to train on")
        lengths = np.fromiter(map(len, word_counts), np.int32, len(word_counts))
        word = np.repeat(np.arange(len(word_counts), dtype=np.int32), lengths)
        places = np.arange(1, len(text) + 1, dtype=np.int32) + word
        id_of_byte = np.argsort(np.frombuffer(b"".join(BYTES_IN_ORDER), np.uint8)).astype(np.int32)
        self._tokens: Places = np.full(size, _OUTSIDE, np.int32)
        self._tokens[places] = id_of_byte[text]
        self._word: Places = np.zeros(size, np.int32)
        self._word[places] = word
        self._word_counts: Int64s = np.fromiter(word_counts.values(), np.int64, len(word_counts))
        self._next: Places = np.arange(1, size + 1, dtype=np.int32)
        self._previous: Places = np.arange(-1, size - 1, dtype=np.int32)

    def _pairs_of_bytes(self) -> _Groups:
        places = np.flatnonzero((self._tokens[:-1] >= 0) & (self._tokens[1:] >= 0)).astype(np.int32)
        # Two bytes make a key of 16 bits, which numpy's stable sort orders by radix, without comparisons.
        keys = (self._tokens[places] << 8 | self._tokens[places + 1]).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        groups = self._group(keys[order], places[order])
        pairs = groups.pairs.astype(np.int64)
        return replace(groups, pairs=pairs >> 8 << _TOKEN_BITS | pairs & 255)

    # ---- pairs waiting to be merged ----

    def _group(self, pairs: npt.NDArray[Any], places: Places) -> _Groups:
        """Put sorted pairs that are equal together and count them."""
        if len(pairs) == 0:
            return _Groups(pairs, pairs, pairs, pairs, places)
        starts = np.flatnonzero(np.concatenate(([True], pairs[1:] != pairs[:-1])))
        counts = np.add.reduceat(self._word_counts[self._word[places]], starts)
        return _Groups(pairs[starts], counts, starts, np.append(starts[1:], len(pairs)), places)

    def _offer(self, groups: _Groups) -> None:
        """Make pairs candidates. One that is too rare now can only become rarer, so it is forgotten."""
        kept = (groups.counts >= self._min_frequency) & (groups.youngest < self._vocab_size)
        lengths = groups.stops - groups.starts
        places = groups.places[np.repeat(kept, lengths)]
        begin, end = self._pool_used, self._pool_used + len(places)
        if end > len(self._pool):
            self._pool = np.concatenate((self._pool[:begin], np.empty(end - begin + end // 4, np.int32)))
        self._pool[begin:end] = places
        self._pool_used = end
        number = len(self._starts)
        lengths = lengths[kept]
        stops = begin + np.cumsum(lengths)
        self._starts.frombytes((stops - lengths).tobytes())
        self._stops.frombytes(stops.tobytes())
        entries = map(
            _entry, groups.counts[kept].tolist(), groups.pairs[kept].tolist(), range(number, len(self._starts))
        )
        if self._heap:
            for entry in entries:
                heapq.heappush(self._heap, entry)
        else:
            self._heap = sorted(entries)  # a sorted list is a heap

    def _next_merges(self, most: int) -> dict[int, Places]:
        """Take the next merges from the heap: entry -> places, in the order of the merges. None left: empty.

        At most ``most`` entries are taken and counted again; those that are not the next merges go back.
        """
        while self._heap:
            popped = [heapq.heappop(self._heap) for _ in range(min(most, len(self._heap)))]
            candidates = self._recount(popped)
            ordered = sorted(candidates)
            chosen = ordered[: self._independent(ordered)]
            for entry in ordered[len(chosen) :]:
                heapq.heappush(self._heap, entry)
            if chosen:
                return {entry: candidates[entry] for entry in chosen}
        return {}

    def _recount(self, entries: list[int]) -> dict[int, Places]:
        """The entries with their present counts -> their present places; without those that became too rare."""
        numbers = [entry & _NUMBER_MASK for entry in entries]
        stretches = [self._pool[self._starts[number] : self._stops[number]] for number in numbers]
        places = np.concatenate(stretches)
        owner = np.repeat(np.arange(len(entries)), list(map(len, stretches)))
        left, right = np.array([_tokens_of(entry) for entry in entries], np.int32).T
        still = (self._tokens[places] == left[owner]) & (self._tokens[self._next[places]] == right[owner])
        places, owner = places[still], owner[still]
        # bincount adds in float64, which is exact for whole numbers up to 2**53.
        counts = np.bincount(owner, self._word_counts[self._word[places]], len(entries)).astype(np.int64)
        stops = np.cumsum(np.bincount(owner, minlength=len(entries)))
        recounted: dict[int, Places] = {}
        start = 0
        for entry, number, count, stop in zip(entries, numbers, counts.tolist(), stops.tolist()):
            stretch, start = places[start:stop], stop
            missing = _count_of(entry) - count
            if missing:
                if count < self._min_frequency:
                    continue
                self._stops[number] = self._starts[number] + len(stretch)
                self._pool[self._starts[number] : self._stops[number]] = stretch
                entry += missing << _COUNT_SHIFT
            recounted[entry] = stretch
        return recounted

    def _independent(self, ordered: list[int]) -> int:
        """How many of ``ordered`` come before the rest of the heap and leave each other's counts alone."""
        lefts: set[int] = set()
        rights: set[int] = set()
        for index, entry in enumerate(ordered):
            left, right = _tokens_of(entry)
            if (self._heap and entry > self._heap[0]) or left in rights or right in lefts:
                return index
            if left == right:  # its places may overlap, so it gets a sweep of its own
                return index or 1
            lefts.add(left)
            rights.add(right)
        return len(ordered)

    # ---- merging ----

    def sweep(self, most: int) -> list[tuple[int, int]]:
        """Do the next merges, at most ``most``, and return their pairs of ids; none if no pair is left.

        The first merge of all makes token 256, the second one 257, and so on.
        """
        size = min(_LARGEST_SWEEP, _FIRST_SWEEP + (self._vocab_size - 256) // _SWEEP_GROWS_EVERY)
        merges = self._next_merges(min(most, size))
        if not merges:
            return []
        entries = list(merges)
        places = np.concatenate(list(merges.values()))
        owner = np.repeat(np.arange(len(merges)), list(map(len, merges.values())))
        done = len(entries)
        created = None
        if done > 1:
            created = self._new_pairs(places, self._next[self._next[places]], owner)
            done = self._uninterrupted(entries, created)
            for entry in entries[done:]:
                heapq.heappush(self._heap, entry)
            places = places[: np.searchsorted(owner, done)]
        elif len(set(_tokens_of(entries[0]))) == 1:
            places = self._every_second(np.sort(places))
        owner = owner[: len(places)]
        after = self._join(places, owner)
        if created is None or np.any(self._tokens[self._previous[places]] >= self._vocab_size):
            # Looked at again where merges stood side by side: their new tokens are neighbours now.
            created = self._new_pairs(places, after, owner)
        self._vocab_size += done
        self._offer(created)
        return [_tokens_of(entry) for entry in entries[:done]]

    def _join(self, places: Places, owner: Int64s) -> Places:
        """Write the new tokens and link the second halves out. Returns the places after the new tokens."""
        second = self._next[places]
        after = self._next[second]
        self._tokens[places] = self._vocab_size + owner
        self._tokens[second] = _GONE
        self._next[places] = after
        self._previous[after] = places
        return after

    def _every_second(self, places: Places) -> Places:
        """Of sorted places of two equal tokens in runs such as ``a a a``, those that are merged: 1st, 3rd, ..."""
        index = np.arange(len(places))
        follows = np.concatenate(([False], self._next[places[:-1]] == places[1:]))
        in_run = index - np.maximum.accumulate(np.where(follows, 0, index))
        merged: Places = places[in_run % 2 == 0]
        return merged

    def _new_pairs(self, places: Places, after: Places, owner: Int64s) -> _Groups:
        """The pairs that new tokens at ``places`` form with their neighbours, before or after they are written."""
        new = self._vocab_size + owner
        before = self._previous[places]
        left, right = self._tokens[before].astype(np.int64), self._tokens[after].astype(np.int64)
        # Of two new tokens side by side, the left one tells of the pair.
        has_left, has_right = (left >= 0) & (left < self._vocab_size), right >= 0
        pairs = np.concatenate(((left << _TOKEN_BITS | new)[has_left], (new << _TOKEN_BITS | right)[has_right]))
        order = np.argsort(pairs, kind="stable")
        return self._group(pairs[order], np.concatenate((before[has_left], places[has_right]))[order])

    def _uninterrupted(self, entries: list[int], created: _Groups) -> int:
        """How many merges follow each other before a pair that one of them creates has to come first.

        ``created`` takes neighbours as they were before the sweep. Where merges stand side by side, that counts some
        pairs too high: it may end the sweep too early, which only costs time, and never too late.
        """
        maker = created.youngest - self._vocab_size
        most = np.zeros(len(entries), np.int64)
        np.maximum.at(most, maker, created.counts)
        ties = created.counts == most[maker]
        first = np.full(len(entries), np.iinfo(np.int64).max)
        np.minimum.at(first, maker[ties], created.pairs[ties])
        rival = entries[-1]
        for index, (count, pair) in enumerate(zip(most.tolist(), first.tolist())):
            if rival < entries[index]:
                return index
            if count:
                rival = min(rival, _entry(count, pair, 0))
        return len(entries)
