"""Words to numbers: what every search for repeated text compares, a batch of texts at a time.

A text becomes a row of 64-bit word hashes, and a run of words becomes one 64-bit hash that does not depend on where the
run stands. All of it is arithmetic modulo 2**64 on explicit constants, so it is the same on every machine.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import numpy.typing as npt
import regex
import xxhash

from llm_trainer.corpus.words import WordTable, tabulate

UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]

_BASE = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1

_NUMBER = regex.compile(r"\p{Nd}+(?:[.,،٫]\p{Nd}+)?")
_LETTERS = regex.compile(r"[^\W_]+")
# Scripts that write no spaces between words: there, every character stands for a word.
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_PIECE_OR_RUN = regex.compile(f"{_UNSPACED.pattern}|(?:(?!{_UNSPACED.pattern})[^\\W_])+")
_UNIT = regex.compile(rf"(?:(?!{_UNSPACED.pattern})\X)+|\X")

PIECE_CHARS = 4
"""A word counts as one token for every four characters, which is about what a byte-pair vocabulary makes of English."""


# A "word" can be a picture in base64: a hundred thousand of those must not stay in memory.
_REMEMBERED_CHARS = 64


@dataclass(frozen=True)
class HashedWords:
    """The words of a batch of texts as hashes.

    Attributes:
        values: (total words,) uint64, text after text.
        starts: (texts + 1,) int64: where each text begins in ``values``; the last is the total.
    """

    values: UInt64s
    starts: Int64s

    @property
    def counts(self) -> Int64s:
        """(texts,): words of every text."""
        return np.diff(self.starts)

    def of(self, index: int) -> UInt64s:
        """The words of one text."""
        return self.values[self.starts[index] : self.starts[index + 1]]


def as_table(texts: Sequence[str] | WordTable) -> WordTable:
    """Split texts into words, unless that has been done."""
    return texts if isinstance(texts, WordTable) else tabulate(texts)


def expand(table: WordTable, hashes_of: Callable[[str], tuple[int, ...]]) -> HashedWords:
    """Replace every word by the hashes that it stands for: none, one or several.

    Args:
        table: the words.
        hashes_of: word -> its hashes. Called once for each word type of the batch, not for each word.
    """
    types = [hashes_of(word) for word in table.vocabulary]
    lengths = np.fromiter(map(len, types), dtype=np.int64, count=len(types))
    flat = np.fromiter(chain.from_iterable(types), dtype=np.uint64, count=int(lengths.sum()))
    first = np.cumsum(lengths) - lengths
    counts = lengths[table.ids]
    ends = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=ends[1:])
    starts = ends[table.starts]
    if lengths.max(initial=0) <= 1:
        return HashedWords(flat[first[table.ids[counts == 1]]], starts)
    places = np.arange(ends[-1]) + np.repeat(first[table.ids] - ends[:-1], counts)
    return HashedWords(flat[places], starts)


def normal_words(word: str, *, numbers: bool) -> tuple[str, ...]:
    """What is left of a word for a comparison that forgives small changes, as in datatrove's ``simplify_text``.

    Lower case; punctuation separates; accents are dropped; with ``numbers``, every number becomes ``0``. A character of
    a script without spaces is a word of its own.
    """
    if word.isascii():
        if word.isalpha():
            return (word.lower(),)
        text = word.lower()
    else:
        text = unicodedata.normalize("NFD", word.lower())
        text = "".join(char for char in text if unicodedata.category(char) != "Mn")
    if numbers:
        text = _NUMBER.sub("0", text)
    if text.isascii():
        return tuple(_LETTERS.findall(text))
    return tuple(_PIECE_OR_RUN.findall(text))


def similar_hashes(word: str) -> tuple[int, ...]:
    """The hashes of :func:`normal_words` with numbers made equal: for near duplicates."""
    return _similar(word) if len(word) <= _REMEMBERED_CHARS else _hashes(normal_words(word, numbers=True))


def plain_hashes(word: str) -> tuple[int, ...]:
    """The hashes of :func:`normal_words` with numbers kept: for benchmark items, where numbers are the point."""
    return _plain(word) if len(word) <= _REMEMBERED_CHARS else _hashes(normal_words(word, numbers=False))


def piece_hashes(word: str) -> tuple[int, ...]:
    """The hashes of :func:`word_pieces`: for exact repetition."""
    return _pieces(word) if len(word) <= _REMEMBERED_CHARS else _hashes(word_pieces(word))


def word_pieces(word: str) -> list[str]:
    """A word, exactly as written, as tokens of at most four characters."""
    if len(word) <= PIECE_CHARS and not _UNSPACED.search(word):
        return [] if word.isspace() else [word]
    if _UNSPACED.search(word):
        return list(word)
    return [word[start : start + PIECE_CHARS] for start in range(0, len(word), PIECE_CHARS)]


def cut_units(word: str) -> list[str]:
    """Parts of a word between which a text may be cut: in scripts without spaces, every character with its marks."""
    return _UNIT.findall(word) if _UNSPACED.search(word) else [word]


def window_hashes(words: HashedWords, size: int) -> tuple[UInt64s, Int64s]:
    """One hash for every run of ``size`` words inside one text.

    Returns:
        (windows,) uint64, text after text in order of place, and (texts + 1,) int64 where each text's windows begin.
        A text of fewer than ``size`` words has none.
    """
    counts = np.maximum(words.counts - size + 1, 0)
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    if not starts[-1]:
        return np.empty(0, dtype=np.uint64), starts
    places = np.arange(starts[-1]) + np.repeat(words.starts[:-1] - starts[:-1], counts)
    return mix(_polynomials(words.values, size)[places]), starts


def mix(values: UInt64s) -> UInt64s:
    """Spread every bit over all 64 (the finalizer of MurmurHash3); a bijection. Changes ``values`` and returns it."""
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> np.uint64(33)
    return values


def mixed_constants(seed: int, count: int) -> list[int]:
    """64-bit numbers that depend on ``seed`` alone (SplitMix64, Steele et al. 2014)."""
    state, found = seed & _MASK, []
    for _ in range(count):
        state = (state + _BASE) & _MASK
        value = state
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        found.append(value ^ (value >> 31))
    return found


def _polynomials(values: UInt64s, size: int) -> UInt64s:
    """Every run as the value of a polynomial, built by doubling: 50 words take 8 passes instead of 50."""
    result, length = np.zeros(0, dtype=np.uint64), 0
    power, span = values, 1
    while True:
        if size & span:
            # A run of ``length`` words, then one of ``span``.
            result = power if not length else _join(result, power, length, span)
            length += span
        if span * 2 > size:
            return result
        power, span = _join(power, power, span, span), span * 2


def _join(left: UInt64s, right: UInt64s, left_size: int, right_size: int) -> UInt64s:
    tail = right[left_size:]
    joined: UInt64s = left[: len(tail)] * np.uint64(pow(_BASE, right_size, 1 << 64))
    joined += tail[: len(joined)]
    return joined


def _hashes(words: Iterable[str]) -> tuple[int, ...]:
    return tuple(xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) for word in words)


@lru_cache(maxsize=1 << 17)
def _similar(word: str) -> tuple[int, ...]:
    return _hashes(normal_words(word, numbers=True))


@lru_cache(maxsize=1 << 17)
def _plain(word: str) -> tuple[int, ...]:
    return _hashes(normal_words(word, numbers=False))


@lru_cache(maxsize=1 << 17)
def _pieces(word: str) -> tuple[int, ...]:
    return _hashes(word_pieces(word))
