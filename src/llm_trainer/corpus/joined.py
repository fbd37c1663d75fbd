"""Several data sets one after the other, as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.resolve import DatasetHandle


class JoinedDatasets:
    """The documents of several handles; iterate over it as often as needed.

    Args:
        handles: in order.
    """

    def __init__(self, handles: Sequence[DatasetHandle]) -> None:
        if not handles:
            raise DataError("there is no data set to join")
        self.handles = tuple(handles)
        self.name = "+".join(handle.name for handle in self.handles)
        self.split = self.handles[0].split

    def __iter__(self) -> Iterator[Document]:
        return chain.from_iterable(self.handles)

    @property
    def description(self) -> str:
        """All of them, in one line."""
        return "; ".join(handle.description for handle in self.handles)

    @property
    def fingerprint(self) -> str:
        """Changes when the documents of one of them change."""
        return fingerprint([handle.fingerprint for handle in self.handles])

    @property
    def total_bytes(self) -> int | None:
        """Their sizes together; None where one is not known."""
        sizes = [handle.total_bytes for handle in self.handles]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def split_documents(self) -> int | None:
        """Their documents together; None where one has not counted them."""
        counts = [handle.split_documents for handle in self.handles]
        return None if None in counts else sum(count for count in counts if count is not None)

    def validation(self, split: str | None = None) -> JoinedDatasets:
        """The split to validate on, of each."""
        return JoinedDatasets([handle.validation(split) for handle in self.handles])
