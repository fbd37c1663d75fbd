"""A filter tags documents once; its rules then decide on the tags alone.

Tagging is the expensive half: it reads the text. Deciding is arithmetic on a few numbers, so a threshold can be changed
and the decision repeated without reading the text again. A setting that changes the tags themselves is named in
``TAG_SETTINGS``; all others are thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

from llm_trainer.config.base import Settings
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.words import WordTable, tabulate

Tags: TypeAlias = dict[str, Any]
"""Name -> number or short text. Names are unique over all filters and JSON can hold the values."""


@dataclass(frozen=True)
class Batch:
    """Documents to tag together, with what several filters need of them, computed once."""

    documents: Sequence[Document]

    @cached_property
    def texts(self) -> list[str]:
        """The text of every document."""
        return [document.text for document in self.documents]

    @cached_property
    def words(self) -> WordTable:
        """The words of every document."""
        return tabulate(self.texts)


class Filter(Settings):
    """Settings of one family of rules, and the rules.

    ``name`` is its key in the pipeline file; every reason that it gives begins with it: ``"gopher_quality.few_words"``.
    """

    name: ClassVar[str]
    TAG_SETTINGS: ClassVar[frozenset[str]] = frozenset()

    def tag(self, batch: Batch, tags: Sequence[Tags]) -> None:
        """Put this filter's tags of every document of the batch into ``tags``, which is as long as the batch."""
        raise NotImplementedError

    def reasons(self, tags: Mapping[str, Any]) -> Iterator[str]:
        """The codes of all rules that a document breaks, in the order of the rules; none if it may stay."""
        raise NotImplementedError

    def tag_identity(self) -> dict[str, Any]:
        """What the tags depend on; equal identities give equal tags."""
        return {"name": self.name, **{key: value for key, value in self.to_dict().items() if key in self.TAG_SETTINGS}}
