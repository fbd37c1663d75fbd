"""What a data set looks like once it is found: named splits of documents, and an identity for the cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint, hash_bytes
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.readers import ReadReport

Record: TypeAlias = Document | str | Mapping[str, Any]
"""One document in any of the shapes that people have: a document, its text, or a record with a text column."""

SPLIT_ALIASES = {"valid": "validation", "val": "validation", "dev": "validation"}


class Source(ABC):
    """A data set that was found, before a split is chosen.

    Attributes:
        name: what the person called it.
        description: where it was found, for people.
        splits: the splits that it has of its own, with :data:`SPLIT_ALIASES` applied.
        report: what reading skipped.
    """

    name: str
    description: str
    splits: tuple[str, ...]

    def __init__(self) -> None:
        self.report = ReadReport()

    @abstractmethod
    def documents(self, split: str) -> Iterator[Document]:
        """The documents of one split, from the start, in the same order every time."""

    @abstractmethod
    def fingerprint(self, split: str) -> str:
        """Changes when the documents of the split change."""

    def total_bytes(self, split: str) -> int | None:
        """Size on disk of the split, if that is known without reading it."""
        return None

    def known_count(self, split: str) -> int | None:
        """Number of documents in the split, if that is known without reading it."""
        return None

    def count(self, split: str) -> int:
        """Number of documents in the split; reads all of it if it must."""
        known = self.known_count(split)
        return sum(1 for _ in self.documents(split)) if known is None else known


class RecordsSource(Source):
    """Records in memory or in a ``datasets.Dataset``: any iterable that can be read more than once, or a dict of them.

    Args:
        records: the records, or split name -> records.
        name: what to call it.
        text_column: the key of the text, where a record is a mapping.
        description: where it came from.

    Raises:
        DataError: a generator was given, which could be read only once.
    """

    def __init__(
        self,
        records: Iterable[Record] | Mapping[str, Iterable[Record]],
        *,
        name: str,
        text_column: str = "text",
        description: str | None = None,
    ) -> None:
        super().__init__()
        by_split = records if isinstance(records, Mapping) else {"train": records}
        self._records = {SPLIT_ALIASES.get(split, split): rows for split, rows in by_split.items()}
        for rows in self._records.values():
            if iter(rows) is rows:
                raise DataError(
                    f"{name} can be read only once ({type(rows).__name__}), but training reads it several times",
                    hint="give a list, a data set, or an object whose __iter__ starts again",
                )
        self.name = name
        self.text_column = text_column
        self.description = description or f"{name} (records in memory)"
        self.splits = tuple(self._records)

    def documents(self, split: str) -> Iterator[Document]:
        """The non-blank records as documents; blank ones are counted in the report."""
        given = False
        for number, record in enumerate(self._records[split], start=1):
            document = as_document(record, number, self.text_column, self.name)
            if not document.text.strip():
                self.report.empty_records += 1
                continue
            given = True
            self.report.documents += 1
            yield document
        if not given:
            raise DataError(f"{self.description} has no text in its split {split!r}")

    def fingerprint(self, split: str) -> str:
        """The library's own fingerprint for a ``datasets.Dataset``, else a hash over every text."""
        own = getattr(self._records[split], "_fingerprint", None)
        if isinstance(own, str):
            return fingerprint([own, self.text_column])
        texts = (document.text.encode("utf-8", "surrogatepass") for document in self.documents(split))
        return fingerprint([self.text_column, [hash_bytes(text) for text in texts]])


def as_document(record: Record, number: int, text_column: str, source: str) -> Document:
    """A record in any accepted shape as a :class:`Document`; null text becomes an empty one.

    Raises:
        DataError: the record has no such column, or holds no text.
    """
    if isinstance(record, Document):
        return record
    text: Any = record
    if isinstance(record, Mapping):
        if text_column not in record:
            raise DataError(
                f"{source}, record {number} has no column {text_column!r}; it has {', '.join(map(repr, record))}",
                hint="say which one holds the text: data.text_column=NAME",
            )
        text = record[text_column] if record[text_column] is not None else ""
    if not isinstance(text, str):
        raise DataError(f"{source}, record {number}: expected text, found {type(text).__name__}")
    return Document(text, str(number), source)
