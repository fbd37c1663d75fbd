"""The length of a document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from llm_trainer.config.base import Int
from llm_trainer.corpus.filters.base import Batch, Filter, Tags


class Length(Filter):
    """Drops what is too short to learn from and what is too long to be one document; both limits are still kept."""

    name: ClassVar[str] = "length"

    min_characters: Int = Field(default=100, ge=0)
    """Shortest document that is kept, in characters."""
    max_characters: Int = Field(default=100_000, ge=1)
    """Longest document that is kept, in characters."""

    def tag(self, batch: Batch, tags: Sequence[Tags]) -> None:
        """Count characters."""
        for text, values in zip(batch.texts, tags, strict=True):
            values["characters"] = len(text)

    def reasons(self, tags: Mapping[str, Any]) -> Iterator[str]:
        """Too short or too long."""
        if tags["characters"] < self.min_characters:
            yield "length.too_short"
        if tags["characters"] > self.max_characters:
            yield "length.too_long"

    def contradictions(self) -> Iterable[str]:
        """A least length above the greatest."""
        if self.min_characters > self.max_characters:
            yield f"min_characters ({self.min_characters}) is above max_characters ({self.max_characters})"
