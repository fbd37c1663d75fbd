"""Runs of words of known texts, and where they are in others: hashes to find them, the words themselves to be sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from llm_trainer.corpus.dedup.benchmarks import Item
from llm_trainer.corpus.dedup.shingles import (
    HashedWords,
    Int64s,
    UInt64s,
    as_table,
    expand,
    plain_hashes,
    window_hashes,
)

_FILTER_BITS = 27


@dataclass(frozen=True)
class Found:
    """Where known texts are: for every find its document, its item, and its first word and length there, in words."""

    documents: Int64s
    items: Int64s
    starts: Int64s
    lengths: Int64s


@dataclass(frozen=True)
class Grams:
    """An index of runs of words.

    Attributes:
        size: words in a key.
        whole: whether a find is a whole question (its beginning is the key) instead of a run out of an item.
        keys: (n,) uint64, sorted: hash of the first ``size`` words of a run.
        items: (n,) int32: the item.
        places: (n,) int64: where the run begins in ``words``.
        lengths: (n,) uint8: words in the run, at least ``size``.
        words: (m,) uint64: the hashes of the words of all texts.
    """

    ARRAYS: ClassVar[tuple[str, ...]] = ("keys", "items", "places", "lengths")

    size: int
    whole: bool
    keys: UInt64s
    items: npt.NDArray[np.int32]
    places: Int64s
    lengths: npt.NDArray[np.uint8]
    words: UInt64s

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a file of the index holds, besides ``words``, which several indexes share."""
        return {name: getattr(self, name) for name in self.ARRAYS}

    @cached_property
    def _filter(self) -> npt.NDArray[np.uint8]:
        """One bit for every value of a key's top bits: 16 MB that spare nearly all words of ordinary text the search in
        the keys (six million keys, those of the common benchmarks, set 5 % of the bits)."""
        bits = np.unique(self.keys >> np.uint64(64 - _FILTER_BITS))
        present = np.zeros(1 << (_FILTER_BITS - 3), dtype=np.uint8)
        np.bitwise_or.at(present, bits >> np.uint64(3), np.uint8(1) << (bits & np.uint64(7)).astype(np.uint8))
        return present

    def find(self, words: HashedWords) -> Found:
        """Every run of the index in a batch of texts."""
        hashes, starts = window_hashes(words, self.size)
        bits = hashes >> np.uint64(64 - _FILTER_BITS)
        present = self._filter[bits >> np.uint64(3)] >> (bits & np.uint64(7)).astype(np.uint8)
        maybe = np.flatnonzero(present & np.uint8(1))
        first = np.searchsorted(self.keys, hashes[maybe], side="left")
        known = first < len(self.keys)
        known[known] = self.keys[first[known]] == hashes[maybe[known]]
        maybe, first = maybe[known], first[known]
        counts = np.searchsorted(self.keys, hashes[maybe], side="right") - first
        window = np.repeat(maybe, counts)
        posting = np.repeat(first, counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        documents = np.searchsorted(starts, window, side="right") - 1
        begins = window - starts[documents]
        lengths = self.lengths[posting].astype(np.int64)
        fits = np.flatnonzero(begins + lengths <= words.counts[documents])
        left = words.starts[documents] + begins
        for step in range(int(lengths.max(initial=0))):
            compared = step < lengths[fits]
            places = np.minimum(left[fits] + step, len(words.values) - 1)
            theirs = np.minimum(self.places[posting[fits]] + step, len(self.words) - 1)
            fits = fits[~compared | (words.values[places] == self.words[theirs])]
        return Found(documents[fits], self.items[posting[fits]].astype(np.int64), begins[fits], lengths[fits])


class Postings:
    """Collects the runs of items and makes the two indexes: runs of ``ngram`` words, and whole short questions.

    Args:
        ngram: words in a run.
        min_words: a question of at least so many, but fewer than ``ngram``, is looked for as a whole.
    """

    def __init__(self, ngram: int, min_words: int) -> None:
        self._ngram = ngram
        self._min_words = min_words
        self._runs: list[tuple[UInt64s, Int64s, Int64s, Int64s]] = []
        self._short: list[tuple[UInt64s, Int64s, Int64s, Int64s]] = []
        self._words: list[UInt64s] = []
        self._total = 0

    def add(self, items: Sequence[Item], first: int) -> list[bool]:
        """Add items, the first of which has the number ``first``; whether each can be looked for."""
        texts = [text for item in items for text in item.texts]
        owners = np.repeat(np.arange(len(items)) + first, [len(item.texts) for item in items])
        questions = np.array([text == item.question for item in items for text in item.texts], dtype=bool)
        words = expand(as_table(texts), plain_hashes)
        self._words.append(words.values)
        hashes, starts = window_hashes(words, self._ngram)
        counts = np.diff(starts)
        places = np.repeat(words.starts[:-1] - starts[:-1], counts) + np.arange(len(hashes)) + self._total
        self._runs.append((hashes, np.repeat(owners, counts), places, np.full(len(hashes), self._ngram)))
        short = np.flatnonzero(questions & (words.counts < self._ngram) & (words.counts >= self._min_words))
        hashes, starts = window_hashes(words, self._min_words)
        begins = words.starts[:-1][short]
        self._short.append((hashes[starts[short]], owners[short], begins + self._total, words.counts[short]))
        self._total += len(words.values)
        known = np.zeros(len(items), dtype=bool)
        known[owners[counts > 0] - first] = True
        known[owners[short] - first] = True
        return [bool(value) for value in known]

    def finish(self, ignore_above: int | None) -> tuple[list[Grams], int]:
        """The indexes, and how many different runs were left out because more than ``ignore_above`` items have them."""
        words = np.concatenate(self._words) if self._words else np.empty(0, dtype=np.uint64)
        left_out = 0
        grams = []
        for size, whole, parts in ((self._ngram, False, self._runs), (self._min_words, True, self._short)):
            keys = np.concatenate([part[0] for part in parts] or [np.empty(0, dtype=np.uint64)])
            items, places, lengths = (
                np.concatenate([part[column] for part in parts] or [np.empty(0, dtype=np.int64)])
                for column in (1, 2, 3)
            )
            order = np.lexsort((places, items, keys))
            keys, items, places, lengths = keys[order], items[order], places[order], lengths[order]
            if not whole:
                # Once an item: the question stands alone and again with its answer.
                once = np.ones(len(keys), dtype=bool)
                once[1:] = (keys[1:] != keys[:-1]) | (items[1:] != items[:-1])
                keys, items, places, lengths = keys[once], items[once], places[once], lengths[once]
                if ignore_above is not None and len(keys):
                    _, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
                    rare = (counts <= ignore_above)[index]
                    left_out += int((counts > ignore_above).sum())
                    keys, items, places, lengths = keys[rare], items[rare], places[rare], lengths[rare]
            grams.append(Grams(size, whole, keys, items.astype(np.int32), places, lengths.astype(np.uint8), words))
        return grams, left_out
