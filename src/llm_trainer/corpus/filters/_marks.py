"""Which characters the published rules count as punctuation and as the end of a sentence."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import regex

Booleans: TypeAlias = npt.NDArray[np.bool_]
_SYMBOLS, _LETTERS, _PUNCTUATION, _ENDS = 1, 2, 4, 8

_SENTENCE_END = regex.compile(r"[\p{Sentence_Terminal}\u17d6\u17d9\u17da]")
"""Unicode's property, and three Khmer marks that the FineWeb rules count too."""
_ONLY_SYMBOLS = regex.compile(
    r"[\p{Sentence_Terminal}\u17d6\u17d9\u17da!-/:-@\[-`{-~\u0000-\u0009\u000b-\u001f\u007f-\u009f"
    r"«»´–—’“”„…∶━►、〈〉《》「」【】％（），１：；～]+"
)
"""The marks of the Gopher rules as FineWeb was made with: ASCII, quotes and dashes, a few full-width ones, controls;
not the bullet, the euro or the degree sign."""


@functools.lru_cache(maxsize=4096)
def ends_sentence(character: str) -> bool:
    """Whether a character ends a sentence in some script (``.``, ``?``, ``。``, ``।`` ...)."""
    return _SENTENCE_END.fullmatch(character) is not None


class WordKinds:
    """What the word types of a table consist of, one boolean for each.

    Attributes:
        symbols: marks alone, so that it is no word in the sense of the length rules.
        letters: a letter is in it.
        punctuation: punctuation alone, by its Unicode category (``$`` and ``+`` are none).
        ends: one mark that ends a sentence.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        # Most types are letters alone, for which one fast call suffices.
        codes = np.array([_LETTERS if word.isalpha() else _kind(word) for word in vocabulary], dtype=np.uint8)
        self.symbols: Booleans = codes & _SYMBOLS != 0
        self.letters: Booleans = codes & _LETTERS != 0
        self.punctuation: Booleans = codes & _PUNCTUATION != 0
        self.ends: Booleans = codes & _ENDS != 0


@functools.lru_cache(maxsize=1 << 16)
def _kind(word: str) -> int:
    code = _SYMBOLS * (_ONLY_SYMBOLS.fullmatch(word) is not None)
    code |= _LETTERS * any(map(str.isalpha, word))
    code |= _PUNCTUATION * all(unicodedata.category(character)[0] == "P" for character in word)
    return code | _ENDS * (len(word) == 1 and ends_sentence(word))
