"""The quality rules of Gopher: is this running text?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from llm_trainer.config.base import Int
from llm_trainer.corpus.filters._marks import WordKinds
from llm_trainer.corpus.filters.base import Batch, Filter, Tags
from llm_trainer.corpus.words import WordTable

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_BULLETS = frozenset("•-")
_ELLIPSES = ("...", "…")


class GopherQuality(Filter):
    """Drops lists, tables, menus, code listings and what has no sentences.

    Source: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", section A1.1,
    https://arxiv.org/abs/2112.11446. Words are those of :func:`llm_trainer.corpus.words.split_words`; words of marks
    alone count in the shares (symbols, letters) and not in the number and the mean length of words, as in FineWeb.
    ``null`` switches a rule off. For another language give its own ``stop_words``; for code set ``min_stop_words`` to
    ``null``.
    """

    name: ClassVar[str] = "gopher_quality"
    TAG_SETTINGS: ClassVar[frozenset[str]] = frozenset({"stop_words"})

    min_words: Int | None = Field(default=50, ge=0)
    """Fewest words."""
    max_words: Int | None = Field(default=100_000, ge=1)
    """Most words."""
    min_mean_word_length: float | None = Field(default=3.0, ge=0)
    """Shortest mean length of a word, in characters."""
    max_mean_word_length: float | None = Field(default=10.0, ge=0)
    """Longest mean length of a word, in characters."""
    max_hashes_per_word: float | None = Field(default=0.1, ge=0)
    """Most ``#`` per word."""
    max_ellipses_per_word: float | None = Field(default=0.1, ge=0)
    """Most ellipses per word."""
    max_bullet_lines: float | None = Field(default=0.9, ge=0, le=1)
    """Largest share of lines that begin with a bullet point."""
    max_ellipsis_lines: float | None = Field(default=0.3, ge=0, le=1)
    """Largest share of lines that end with an ellipsis."""
    min_alphabetic_words: float | None = Field(default=0.8, ge=0, le=1)
    """Smallest share of words with a letter in them."""
    min_stop_words: Int | None = Field(default=2, ge=0)
    """Fewest different stop words."""
    stop_words: list[str] = list(STOP_WORDS)
    """Words that hardly any running text does without, written as they are to be found."""

    def tag(self, batch: Batch, tags: Sequence[Tags]) -> None:
        """Count words, marks and lines."""
        table = batch.words
        for name, values in (*_word_values(table).items(), ("gopher_stop_words", self._stop_words(table))):
            for tag, value in zip(tags, values.tolist(), strict=True):
                tag[name] = value
        for text, tag, total in zip(batch.texts, tags, table.counts.tolist(), strict=True):
            tag["gopher_hashes_per_word"] = text.count("#") / max(total, 1)
            tag["gopher_ellipses_per_word"] = sum(map(text.count, _ELLIPSES)) / max(total, 1)
            lines = text.splitlines()
            tag["gopher_bullet_lines"] = _bullet_lines(text, lines) / max(len(lines), 1)
            tag["gopher_ellipsis_lines"] = _ellipsis_lines(text, lines) / max(len(lines), 1)

    def reasons(self, tags: Mapping[str, Any]) -> Iterator[str]:
        """The rules of table A1, in its order."""
        for code, tag, smallest, largest in (
            ("few_words", "gopher_words", self.min_words, None),
            ("many_words", "gopher_words", None, self.max_words),
            ("short_words", "gopher_mean_word_length", self.min_mean_word_length, None),
            ("long_words", "gopher_mean_word_length", None, self.max_mean_word_length),
            ("hashes", "gopher_hashes_per_word", None, self.max_hashes_per_word),
            ("ellipses", "gopher_ellipses_per_word", None, self.max_ellipses_per_word),
            ("bullet_lines", "gopher_bullet_lines", None, self.max_bullet_lines),
            ("ellipsis_lines", "gopher_ellipsis_lines", None, self.max_ellipsis_lines),
            ("few_letters", "gopher_alphabetic_words", self.min_alphabetic_words, None),
            ("few_stop_words", "gopher_stop_words", self.min_stop_words, None),
        ):
            value = tags[tag]
            if (smallest is not None and value < smallest) or (largest is not None and value > largest):
                yield f"gopher_quality.{code}"

    def contradictions(self) -> Iterable[str]:
        """A least value above its greatest."""
        for low, high in (("min_words", "max_words"), ("min_mean_word_length", "max_mean_word_length")):
            smallest, largest = getattr(self, low), getattr(self, high)
            if smallest is not None and largest is not None and smallest > largest:
                yield f"{low} ({smallest}) is above {high} ({largest})"

    def _stop_words(self, table: WordTable) -> npt.NDArray[np.int64]:
        """(texts,): how many different stop words occur."""
        wanted = dict.fromkeys(self.stop_words)
        places = {word: number for number, word in enumerate(table.vocabulary) if word in wanted}
        found = np.zeros(len(table.starts) - 1, dtype=np.int64)
        for number in places.values():
            found += table.totals(table.ids == number) > 0
        return found


def _word_values(table: WordTable) -> dict[str, npt.NDArray[Any]]:
    """The values that are sums over words, one for each text."""
    kinds = WordKinds(table.vocabulary)
    words = table.totals((~kinds.symbols)[table.ids])
    characters = table.totals((~kinds.symbols * table.lengths)[table.ids])
    alphabetic = table.totals(kinds.letters[table.ids])
    return {
        "gopher_words": words,
        "gopher_mean_word_length": characters / np.maximum(words, 1),
        "gopher_alphabetic_words": alphabetic / np.maximum(table.counts, 1),
    }


def _bullet_lines(text: str, lines: Sequence[str]) -> int:
    if "•" not in text and "-" not in text:
        return 0
    return sum([line.lstrip()[:1] in _BULLETS for line in lines])


def _ellipsis_lines(text: str, lines: Sequence[str]) -> int:
    if "…" not in text and "..." not in text:
        return 0
    return sum([line.rstrip().endswith(_ELLIPSES) for line in lines])
