"""The rules that FineWeb added to those of Gopher and C4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from llm_trainer.config.base import Int
from llm_trainer.corpus.filters._marks import ends_sentence
from llm_trainer.corpus.filters.base import Batch, Filter, Tags
from llm_trainer.corpus.filters.ngrams import duplicated


class FineWeb(Filter):
    """Drops lists, menus and pages that repeat their lines.

    Source: Penedo et al. 2024, "The FineWeb Datasets", section 3.6, https://arxiv.org/abs/2406.17557. Lines that hold
    nothing visible do not count. ``null`` switches a rule off; for code and verse ``max_short_lines``,
    ``min_punctuated_lines`` and ``max_line_breaks_per_word`` should be off.
    """

    name: ClassVar[str] = "fineweb"
    TAG_SETTINGS: ClassVar[frozenset[str]] = frozenset({"short_line"})

    min_punctuated_lines: float | None = Field(default=0.12, ge=0, le=1)
    """Smallest share of lines that end with the end of a sentence, in any script."""
    max_short_lines: float | None = Field(default=0.67, ge=0, le=1)
    """Largest share of lines that are short."""
    short_line: Int = Field(default=30, ge=0)
    """Longest line that is called short, in characters."""
    max_duplicate_line_characters: float | None = Field(default=0.01, ge=0, le=1)
    """Largest share of characters in lines that stood there before."""
    max_line_breaks_per_word: float | None = Field(default=0.3, ge=0)
    """Most line breaks per word."""

    def tag(self, batch: Batch, tags: Sequence[Tags]) -> None:
        """Measure lines: their ends, their length, their repetition."""
        for text, tag, words in zip(batch.texts, tags, batch.words.counts.tolist(), strict=True):
            lines = [line for line in text.split("\n") if line and not line.isspace()]
            breaks = text.count("\n")
            total = max(len(lines), 1)
            tag["lines"] = len(lines)
            tag["punctuated_lines"] = sum([ends_sentence(line[-1]) for line in lines]) / total
            tag["short_lines"] = sum([len(line) <= self.short_line for line in lines]) / total
            tag["duplicate_line_characters"] = duplicated(lines)[1] / max(len(text) - breaks, 1)
            tag["line_breaks_per_word"] = breaks / max(words, 1)

    def reasons(self, tags: Mapping[str, Any]) -> Iterator[str]:
        """The three rules of FineWeb."""
        if not tags["lines"]:
            yield "fineweb.empty"
            return
        for code, value, smallest, largest in (
            ("few_punctuated_lines", tags["punctuated_lines"], self.min_punctuated_lines, None),
            ("short_lines", tags["short_lines"], None, self.max_short_lines),
            ("duplicate_lines", tags["duplicate_line_characters"], None, self.max_duplicate_line_characters),
            ("line_breaks", tags["line_breaks_per_word"], None, self.max_line_breaks_per_word),
        ):
            if (smallest is not None and value < smallest) or (largest is not None and value > largest):
                yield f"fineweb.{code}"
