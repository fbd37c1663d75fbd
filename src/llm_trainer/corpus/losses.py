"""What could not become a document, and why: counted and named, never silent and never fatal by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_EXAMPLES = 5


@dataclass
class Losses:
    """Counts of records that were lost on the way from bytes to documents.

    Every record that a source holds becomes either a document or one count here, so that a report can say where
    everything went. Reasons are short codes (``"invalid_json"``); the details are for people.

    Attributes:
        counts: reason -> records lost.
        examples: reason -> up to five places with what was wrong there.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, where: str, detail: str = "", *, count: int = 1) -> None:
        """Count lost records.

        Args:
            reason: short code, letters and underscores.
            where: file and place in it, for example ``"crawl/a.warc.gz:offset 1234"``.
            detail: what was wrong, for people.
            count: how many records.
        """
        self.counts[reason] = self.counts.get(reason, 0) + count
        shown = self.examples.setdefault(reason, [])
        if len(shown) < MAX_EXAMPLES:
            shown.append(f"{where}: {detail}" if detail else where)

    def merge(self, other: Losses) -> None:
        """Add another unit's counts."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            shown = self.examples.setdefault(reason, [])
            shown.extend(other.examples.get(reason, [])[: MAX_EXAMPLES - len(shown)])

    @property
    def total(self) -> int:
        """Records lost for any reason."""
        return sum(self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"counts": dict(sorted(self.counts.items())), "examples": dict(sorted(self.examples.items()))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Losses:
        """The inverse of :meth:`to_dict`."""
        return cls(dict(values["counts"]), {reason: list(shown) for reason, shown in values["examples"].items()})
