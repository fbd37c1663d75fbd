"""Repeated runs of words, for a whole batch of texts at once and without a dictionary for each of them.

A run of n words can only occur twice in a text if its first n - 1 words do. So each length is sought only where the
shorter one repeated. Of the pairs of words of English prose a quarter occur again in their document, of the runs of
four one in thirty, of ten one in 150: all nine lengths of the repetition rules cost less than sorting the words once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_trainer.corpus.words import WordTable

Ints = npt.NDArray[np.int64]
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: multiplied by it, neighbouring keys land far apart."""


@dataclass(frozen=True)
class Repeats:
    """The runs of ``size`` words that occur more than once in their text.

    Attributes:
        size: words in a run.
        positions: (occurrences,) int64, rising: where in ``WordTable.ids`` each occurrence begins.
        groups: (occurrences,) int64: equal numbers are equal runs of the same text; groups of a text are neighbours.
        counts: (groups,) int64: how often each occurs.
        firsts: (groups,) int64: where each occurs first.
    """

    size: int
    positions: Ints
    groups: Ints
    counts: Ints
    firsts: Ints


def repeats(words: WordTable, largest: int) -> Iterator[Repeats]:
    """The repeated runs of 2, 3, ... words of every text of a batch.

    Args:
        words: the batch.
        largest: the longest run to look for, in words, at least 2.
    """
    ids = words.ids.astype(np.int64)
    types = max(len(words.vocabulary), 1)
    counts = words.counts
    text_of = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    last_of = np.repeat(words.starts[1:], counts)  # where the text of each word ends
    # Words that are alone in their text begin no repeated run.
    prefix = text_of * types + ids
    if len(counts) * types * types >= 1 << 62:  # a gigabyte at once: numbers without gaps, so that keys still fit
        prefix = np.unique(prefix, return_inverse=True)[1].astype(np.int64)
    positions = _perhaps_repeated(prefix)
    prefix = prefix[positions]
    for size in range(2, largest + 1):
        # Both the run without its last word and the run without its first one must have been repeated.
        alive = np.zeros(len(ids) + 1, dtype=bool)
        alive[positions] = True
        usable = (positions + size <= last_of[positions]) & alive[positions + 1]
        positions = positions[usable]
        keys = prefix[usable] * types + ids[positions + size - 1]
        kept = _perhaps_repeated(keys)
        found = _group(size, positions[kept], keys[kept])
        positions, prefix = found.positions, found.groups
        yield found


def _perhaps_repeated(keys: Ints) -> Ints:
    """Where the keys are that occur more than once, and some that do not.

    Counting hashes takes a quarter of the time of sorting keys, and most of them are gone before the sort.
    """
    bits = max(10, (2 * len(keys)).bit_length())
    hashes = (keys.astype(np.uint64) * _MIX >> np.uint64(64 - bits)).astype(np.int64)
    return np.flatnonzero(np.bincount(hashes, minlength=1 << bits)[hashes] > 1)


def _group(size: int, positions: Ints, keys: Ints) -> Repeats:
    """Those of ``positions`` whose key occurs more than once; groups are numbered in the order of the keys."""
    order = np.argsort(keys)
    ordered = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(new)
    sizes = np.diff(starts, append=len(keys))
    repeated = sizes > 1
    numbers = np.where(repeated, np.cumsum(repeated) - 1, -1)
    group = np.empty(len(keys), dtype=np.int64)
    group[order] = np.repeat(numbers, sizes)
    firsts = np.minimum.reduceat(positions[order], starts)[repeated] if len(keys) else positions
    kept = group >= 0
    return Repeats(size, positions[kept], group[kept], sizes[repeated], firsts)


def top_characters(words: WordTable, found: Repeats) -> Ints:
    """Characters that the commonest run of each text covers, counted with one space between words, times its count.

    Of equally common runs the earliest counts, as with ``collections.Counter.most_common``. In a text without a
    repeated run that is the first run of all; in a text with too few words for a run it is 0.

    Returns:
        (texts,) int64.
    """
    ends = words.character_ends
    starts, stops = words.starts[:-1], words.starts[1:]
    has_run = stops - starts >= found.size
    result = np.zeros(len(starts), dtype=np.int64)
    spaces = found.size - 1
    first = starts[has_run]
    result[has_run] = ends[first + found.size] - ends[first] + spaces
    if len(found.firsts):
        text = np.searchsorted(stops, found.firsts, side="right")
        best = np.lexsort((found.firsts, -found.counts, text))
        leading = best[np.unique(text[best], return_index=True)[1]]
        at = found.firsts[leading]
        result[text[leading]] = (ends[at + found.size] - ends[at] + spaces) * found.counts[leading]
    return result


def duplicate_characters(words: WordTable, found: Repeats) -> Ints:
    """Characters of each text that stand in a run of words which occurred before in it, without counting any twice.

    The reading is from left to right: a run that was read before is counted and jumped over; others are remembered.

    Returns:
        (texts,) int64.
    """
    ends = words.character_ends
    read: set[int] = set()
    jumped: list[int] = []
    free = 0
    # Only repeated runs can be found again, and they are few in ordinary text, so this loop is short.
    for position, group in zip(found.positions.tolist(), found.groups.tolist(), strict=True):
        if position < free:
            continue
        if group in read:
            jumped.append(position)
            free = position + found.size
        else:
            read.add(group)
    at = np.array(jumped, dtype=np.int64)
    text = np.searchsorted(words.starts[1:], at, side="right")
    characters = np.zeros(len(words.starts) - 1, dtype=np.int64)
    np.add.at(characters, text, ends[at + found.size] - ends[at])
    return characters


def duplicated(elements: Sequence[str]) -> tuple[int, int]:
    """How many of some texts occurred before among them, and their characters."""
    different = set(elements)
    if len(different) == len(elements):
        return 0, 0
    return len(elements) - len(different), sum(map(len, elements)) - sum(map(len, different))
