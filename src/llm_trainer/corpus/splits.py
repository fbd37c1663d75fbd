"""Split expressions (``train[:1%]+test``), and the deterministic hold-out for sources that have no validation split.

The grammar is that of the ``datasets`` library, so that configurations carry over: a split name, optionally a slice in
documents (``[10:200]``) or in percent (``[:50%]``), joined by ``+``. Percentages round to the nearest document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import hash_bytes
from llm_trainer.corpus.document import Document

_PART = re.compile(
    r"^(?P<name>[\w.-]+)(?:\[(?P<start>-?\d+)?(?P<start_unit>%)?:(?P<stop>-?\d+)?(?P<stop_unit>%)?\])?$", re.ASCII
)


@dataclass(frozen=True, slots=True)
class SplitPart:
    """One name with its slice. ``start`` and ``stop`` are documents or, with ``percent``, percentages; None is open."""

    name: str
    start: int | None = None
    stop: int | None = None
    percent: bool = False

    @property
    def whole(self) -> bool:
        """Whether nothing is sliced off."""
        return self.start is None and self.stop is None

    @property
    def needs_count(self) -> bool:
        """Whether the slice cannot be taken without knowing how many documents there are."""
        return self.percent or (self.start or 0) < 0 or (self.stop or 0) < 0

    def bounds(self, count: int) -> tuple[int, int]:
        """The slice of a split of ``count`` documents as ``(start, stop)``, with ``0 <= start <= stop <= count``."""
        values = []
        for value, default in ((self.start, 0), (self.stop, count)):
            if value is None:
                values.append(default)
                continue
            absolute = round(value * count / 100) if self.percent else value
            values.append(min(max(absolute + count if absolute < 0 else absolute, 0), count))
        return values[0], max(values)

    def __str__(self) -> str:
        unit = "%" if self.percent else ""
        edges = ["" if edge is None else f"{edge}{unit}" for edge in (self.start, self.stop)]
        return self.name if self.whole else f"{self.name}[{':'.join(edges)}]"


def parse_split(expression: str) -> list[SplitPart]:
    """Parse ``"train"``, ``"train[:1%]"``, ``"train[10:200]"``, ``"train[-5%:]+test"``.

    Raises:
        DataError: the expression is none of these.
    """
    parts = []
    for text in expression.split("+"):
        match = _PART.match(text.strip())
        units = {match[f"{edge}_unit"] for edge in ("start", "stop") if match[edge] is not None} if match else set()
        unit_alone = match and any(match[f"{edge}_unit"] and match[edge] is None for edge in ("start", "stop"))
        if match is None or unit_alone or len(units) > 1:
            raise DataError(
                f"cannot read the split {expression!r}",
                hint="a name with an optional slice, joined by +: train, train[:1%], train[10:200], train[:50%]+test",
            )
        start, stop = (None if match[edge] is None else int(match[edge]) for edge in ("start", "stop"))
        percent = units == {"%"}
        if percent and any(abs(edge) > 100 for edge in (start, stop) if edge is not None):
            raise DataError(f"the split {expression!r} asks for more than 100 %")
        parts.append(SplitPart(match["name"], start, stop, percent))
    return parts


def take_slice(documents: Iterable[Document], part: SplitPart, count: Callable[[], int]) -> Iterator[Document]:
    """The documents of a slice; ``count`` (how many there are in all) is called only when the slice depends on it."""
    if part.whole:
        return iter(documents)
    if part.needs_count:
        return islice(documents, *part.bounds(count()))
    return islice(documents, part.start, part.stop)


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Which documents are held out for validation, by the hash of their text alone.

    A document's side depends on nothing but its own text, so equal texts land on the same side, and adding, removing or
    reordering other documents moves nothing. The exception is a source so small that no document falls below
    ``fraction``: then the one with the smallest hash is held out.

    Args:
        limit: documents with ``position(text) <= limit`` are held out.
        cut: set for a source of one document, which is cut in two: this share at its end is held out.
    """

    limit: float
    cut: float | None = None

    def training(self, documents: Iterable[Document]) -> Iterator[Document]:
        """What is left for training."""
        if self.cut is not None:
            return (cut_document(document, self.cut)[0] for document in documents)
        return (document for document in documents if position(document.text) > self.limit)

    def validation(self, documents: Iterable[Document]) -> Iterator[Document]:
        """What is held out."""
        if self.cut is not None:
            return (cut_document(document, self.cut)[1] for document in documents)
        return (document for document in documents if position(document.text) <= self.limit)


def plan_hold_out(documents: Iterable[Document], fraction: float) -> HoldOut:
    """Find the hold-out rule for a source, reading only as far as needed (about ``1 / fraction`` documents).

    Args:
        documents: the source, from its start.
        fraction: the share of documents to hold out, 0..1, exclusive at both ends.
    """
    positions: set[float] = set()
    below = above = False
    for document in documents:
        place = position(document.text)
        positions.add(place)
        below, above = below or place <= fraction, above or place > fraction
        if below and above:
            return HoldOut(fraction)
    if len(positions) < 2:  # one text, perhaps repeated: a book in one file is the commonest corpus of a newcomer
        return HoldOut(0.0, cut=fraction)
    if min(positions) > fraction:
        return HoldOut(min(positions))
    return HoldOut(sorted(positions)[-2])  # all fell below: keep one for training


def position(text: str) -> float:
    """Where a text stands in [0, 1): its hash, so uniform over different texts. Spaces around it do not count."""
    return int(hash_bytes(text.strip().encode("utf-8", "surrogatepass"))[:13], 16) / 16**13


def cut_document(document: Document, fraction: float) -> tuple[Document, Document]:
    """Cut a text in two near ``1 - fraction`` of its length, at a paragraph, line or word border before that point.

    Raises:
        DataError: the text is too short to give two parts.
    """
    text = document.text
    target = max(1, int(len(text) * (1 - fraction)))
    # Look for a border in the last tenth only: a text without line ends must not lose most of its training part.
    earliest = max(1, target - len(text) // 10)
    borders = (
        text.rfind(mark, earliest, target) + len(mark) for mark in ("\n\n", "\n", " ") if mark in text[earliest:target]
    )
    cut = next(borders, target)
    if not text[:cut].strip() or not text[cut:].strip():
        raise DataError(
            f"{document.source or document.id} is one document of {len(text)} characters, too short to be cut",
            hint="add text, read it by lines (data.documents=line), or set data.validation_fraction=0",
        )
    head = Document(text[:cut], f"{document.id}:train", document.source, document.metadata)
    tail = Document(text[cut:], f"{document.id}:validation", document.source, document.metadata)
    return head, tail
