"""The repetition rules of Gopher: does this text say the same thing again and again?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from llm_trainer.corpus.filters.base import Batch, Filter, Tags
from llm_trainer.corpus.filters.ngrams import duplicate_characters, duplicated, repeats, top_characters

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)


class GopherRepetition(Filter):
    """Drops texts with too many repeated lines, paragraphs or runs of words.

    Source: Rae et al. 2021, table A1, https://arxiv.org/abs/2112.11446. All shares of characters are of the whole text.
    ``null`` switches a rule off. A text without a repeated run of words has its first run as the commonest one, so very
    short texts can break the ``top`` rules; that is how FineWeb was filtered.
    """

    name: ClassVar[str] = "gopher_repetition"

    max_duplicate_lines: float | None = Field(default=0.30, ge=0, le=1)
    """Largest share of lines that stood there before."""
    max_duplicate_paragraphs: float | None = Field(default=0.30, ge=0, le=1)
    """Largest share of paragraphs that stood there before."""
    max_duplicate_line_characters: float | None = Field(default=0.20, ge=0, le=1)
    """Largest share of characters in such lines."""
    max_duplicate_paragraph_characters: float | None = Field(default=0.20, ge=0, le=1)
    """Largest share of characters in such paragraphs."""
    max_top_2_gram: float | None = Field(default=0.20, ge=0, le=1)
    """Largest share of characters in the commonest pair of words."""
    max_top_3_gram: float | None = Field(default=0.18, ge=0, le=1)
    max_top_4_gram: float | None = Field(default=0.16, ge=0, le=1)
    max_duplicate_5_grams: float | None = Field(default=0.15, ge=0, le=1)
    """Largest share of characters in runs of five words that stood there before."""
    max_duplicate_6_grams: float | None = Field(default=0.14, ge=0, le=1)
    max_duplicate_7_grams: float | None = Field(default=0.13, ge=0, le=1)
    max_duplicate_8_grams: float | None = Field(default=0.12, ge=0, le=1)
    max_duplicate_9_grams: float | None = Field(default=0.11, ge=0, le=1)
    max_duplicate_10_grams: float | None = Field(default=0.10, ge=0, le=1)

    def tag(self, batch: Batch, tags: Sequence[Tags]) -> None:
        """Measure repeated lines, paragraphs and runs of words."""
        for text, tag in zip(batch.texts, tags, strict=True):
            characters = max(len(text), 1)
            for name, (elements, again, covered) in (("line", _lines(text)), ("paragraph", _paragraphs(text))):
                tag[f"repeated_{name}s"] = again / max(elements, 1)
                tag[f"repeated_{name}_characters"] = covered / characters
        for found in repeats(batch.words, DUPLICATE_SIZES[-1]):
            if found.size in TOP_SIZES:
                name, covering = f"top_{found.size}_gram", top_characters(batch.words, found)
            else:
                name, covering = f"repeated_{found.size}_grams", duplicate_characters(batch.words, found)
            for text, tag, share in zip(batch.texts, tags, covering.tolist(), strict=True):
                tag[name] = share / max(len(text), 1)

    def reasons(self, tags: Mapping[str, Any]) -> Iterator[str]:
        """Every kind of repetition that is above its limit."""
        for code in ("lines", "paragraphs", "line_characters", "paragraph_characters"):
            if _above(tags[f"repeated_{code}"], getattr(self, f"max_duplicate_{code}")):
                yield f"gopher_repetition.duplicate_{code}"
        for size in TOP_SIZES:
            if _above(tags[f"top_{size}_gram"], getattr(self, f"max_top_{size}_gram")):
                yield f"gopher_repetition.top_{size}_gram"
        for size in DUPLICATE_SIZES:
            if _above(tags[f"repeated_{size}_grams"], getattr(self, f"max_duplicate_{size}_grams")):
                yield f"gopher_repetition.duplicate_{size}_grams"


def _above(value: float, largest: float | None) -> bool:
    return largest is not None and value > largest


def _lines(text: str) -> tuple[int, int, int]:
    """Lines without the empty ones between them, how many stood there before, and the characters of those."""
    lines = [line for line in text.split("\n") if line]
    again, covered = duplicated(lines)
    # A line break at an edge leaves an empty line there; at both edges the second one is a copy of the first.
    edges = text.startswith("\n") + text.endswith("\n")
    return len(lines) + edges, again + (edges == 2), covered


def _paragraphs(text: str) -> tuple[int, int, int]:
    """Paragraphs, which empty lines part, how many stood there before, and the characters of those."""
    text = text.strip()
    if "\n\n" not in text:
        return 1, 0, 0
    # Three line breaks leave one at the front of what follows, four an empty text.
    paragraphs = [part.lstrip("\n") for part in text.split("\n\n") if part]
    return len(paragraphs), *duplicated(paragraphs)
