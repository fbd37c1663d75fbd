"""The sizes of a set of documents: all of them, or those of one source, language, category or split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_trainer.corpus.report.counters import Lengths


@dataclass
class Group:
    """Sums over a set of documents.

    Attributes:
        documents, characters: how many.
        bytes: of the text as UTF-8.
        words: words of each document; a word is what stands between white space.
        tokens: of the documents whose tokens are known.
        token_documents, token_bytes, token_words: sizes of those documents alone, for the ratios.
    """

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    words: Lengths = field(default_factory=Lengths)
    tokens: int = 0
    token_documents: int = 0
    token_bytes: int = 0
    token_words: int = 0

    def add(self, characters: int, size: int, words: int, tokens: int | None) -> None:
        """Add one document of ``size`` bytes."""
        self.documents += 1
        self.characters += characters
        self.bytes += size
        self.words.add(words)
        if tokens is not None:
            self.tokens += tokens
            self.token_documents += 1
            self.token_bytes += size
            self.token_words += words

    def merge(self, other: Group) -> None:
        """Add another unit's documents."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.words.merge(other.words)

    @property
    def word_total(self) -> int:
        """Words of all documents."""
        return sum(value * times for value, times in self.words.counts.items())

    def summary(self) -> dict[str, Any]:
        """What the report says of it; the figures about tokens are None where no token was counted."""
        ratios: dict[str, Any] = {"tokens": None, "tokens_per_word": None, "bytes_per_token": None}
        if self.token_documents:
            ratios["tokens"] = self.tokens
            ratios["tokens_per_word"] = self.tokens / self.token_words if self.token_words else None
            ratios["bytes_per_token"] = self.token_bytes / self.tokens if self.tokens else None
        return {
            "documents": self.documents,
            "characters": self.characters,
            "bytes": self.bytes,
            "words": self.word_total,
            **ratios,
            "token_documents": self.token_documents,
            "words_per_document": self.words.summary(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**{name: getattr(self, name) for name in _SUMS}, "words": self.words.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Group:
        """The inverse of :meth:`to_dict`."""
        return cls(**{name: values[name] for name in _SUMS}, words=Lengths.from_dict(values["words"]))


_SUMS = ("documents", "characters", "bytes", "tokens", "token_documents", "token_bytes", "token_words")
