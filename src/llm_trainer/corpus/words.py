"""Texts as rows of word numbers: split once, then counted and hashed by NumPy, a batch of texts at a time.

A text is cut at white space first, which Python does at 100 MB/s, and each different run of characters is split into
words once (:mod:`llm_trainer.corpus.word_rules`): running text repeats its runs, so the slow half sees few of them, and
those of earlier batches are remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import xxhash

from llm_trainer.corpus.word_rules import split_run

_REMEMBERED = 1 << 18
"""Runs whose words are remembered, about 50 MB; then it begins anew. What comes out does not depend on it."""
_LONGEST_REMEMBERED = 64

_words_of_run: dict[str, tuple[str, ...]] = {}


def split_words(text: str) -> list[str]:
    """Words and marks of a text in order, without the space between them.

    They are close to the tokens of spaCy's English tokenizer, on which the published quality rules are defined.
    """
    return [word for run in text.split() for word in _split_known(run)]


@dataclass(frozen=True)
class WordTable:
    """The words of a batch of texts.

    Attributes:
        ids: (total words,) int32: number of the word type of every word, text after text.
        starts: (texts + 1,) int64: where each text's words begin in ``ids``; the last is the total.
        vocabulary: type number -> the word.
    """

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    vocabulary: list[str]

    @cached_property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """(types,): a hash of every word type that is the same in every process and on every machine."""
        values = (xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) for word in self.vocabulary)
        return np.fromiter(values, dtype=np.uint64, count=len(self.vocabulary))

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(types,): number of characters of every word type."""
        return np.fromiter(map(len, self.vocabulary), dtype=np.int64, count=len(self.vocabulary))

    @cached_property
    def character_ends(self) -> npt.NDArray[np.int64]:
        """(total words + 1,): characters of all words before each place in ``ids``."""
        ends = np.zeros(len(self.ids) + 1, dtype=np.int64)
        np.cumsum(self.lengths[self.ids], out=ends[1:])
        return ends

    def of(self, index: int) -> npt.NDArray[np.int32]:
        """The word numbers of one text."""
        return self.ids[self.starts[index] : self.starts[index + 1]]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(texts,): number of words in every text."""
        return np.diff(self.starts)

    def totals(self, values: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """(texts,): the sum over each text's words of a value that every word has.

        Args:
            values: (total words,).
        """
        running = np.zeros(len(values) + 1, dtype=np.int64)
        np.cumsum(values, out=running[1:])
        return running[self.starts[1:]] - running[self.starts[:-1]]


class _Numbers(dict[str, int]):
    """Gives every new key the next number: one look-up for each word, and no other work, once it is known."""

    def __missing__(self, key: str) -> int:
        number = self[key] = len(self)
        return number


def tabulate(texts: Sequence[str]) -> WordTable:
    """Split a batch of texts and number their words in the order in which they first appear.

    20 to 27 MB/s of English on one core once most of its runs are known, 6 to 12 MB/s for the first megabyte.
    """
    run_numbers = _Numbers()
    rows = [_numbered(run_numbers, text.split()) for text in texts]
    runs = np.concatenate(rows) if rows else np.empty(0, dtype=np.int32)
    run_starts = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=run_starts[1:])

    # The words of every different run, one run after the other.
    word_numbers = _Numbers()
    known = map(_words_of_run.get, run_numbers)
    split = [words or _split_known(run) for run, words in zip(run_numbers, known, strict=True)]
    sizes = np.fromiter(map(len, split), dtype=np.int64, count=len(split))
    words = _numbered(word_numbers, [word for run in split for word in run])
    begins = np.cumsum(sizes) - sizes

    # Every run of the text is replaced by its words.
    per_run = sizes[runs]
    ends = np.zeros(len(runs) + 1, dtype=np.int64)
    np.cumsum(per_run, out=ends[1:])
    if len(words) == len(split):
        ids = words[runs]
    else:
        ids = words[np.repeat(begins[runs] - ends[:-1], per_run) + np.arange(ends[-1])]
    return WordTable(ids, ends[run_starts], list(word_numbers))


def _numbered(numbers: _Numbers, keys: list[str]) -> npt.NDArray[np.int32]:
    return np.fromiter(map(numbers.__getitem__, keys), dtype=np.int32, count=len(keys))


def _split_known(run: str) -> tuple[str, ...]:
    """The words of a run, remembered."""
    words = _words_of_run.get(run)
    if words is None:
        words = tuple(split_run(run))
        if len(run) <= _LONGEST_REMEMBERED:
            if len(_words_of_run) >= _REMEMBERED:
                _words_of_run.clear()
            _words_of_run[run] = words
    return words
