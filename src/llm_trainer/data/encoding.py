"""Texts -> documents of tokens, in batches, optionally on several threads, always in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np

from llm_trainer.common.errors import DataError
from llm_trainer.data.packing import IntArray
from llm_trainer.data.threads import ThreadedDataLoader

BATCH_DOCUMENTS = 512
BATCH_CHARACTERS = 1 << 18
"""A batch is handed to the tokenizer at this size: large enough to hide the hand-over, small enough to share out."""


class TextEncoder(Protocol):
    """What packing needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """All ids are below this."""

    @property
    def bos_token_id(self) -> int | None:
        """Put before every document, if there is one."""

    @property
    def eos_token_id(self) -> int | None:
        """Put after every document, if there is one."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without special tokens."""

    def fingerprint(self) -> str:
        """Identity of the mapping from text to ids."""


class HasText(Protocol):
    """A document in the shape that the corpus readers give it."""

    @property
    def text(self) -> str:
        """The text."""


@dataclass(frozen=True)
class EncodedBatch:
    """Consecutive documents: their tokens end to end, their lengths, and their size as UTF-8 text."""

    tokens: IntArray
    lengths: IntArray
    text_bytes: IntArray


def document_texts(documents: Iterable[str | HasText]) -> Iterator[str]:
    """The texts; empty ones are left out, because an end right after a beginning would teach a model to say nothing.

    Raises:
        DataError: an item is neither a string nor has a ``text``.
    """
    for number, document in enumerate(documents, start=1):
        text: Any = getattr(document, "text", document)
        if not isinstance(text, str):
            raise DataError(
                f"document {number} is {type(text).__name__}, not text",
                hint="give strings or objects with .text; for records, name the column with data.text_column",
            )
        if text:
            yield text


def encode_documents(texts: Iterable[str], tokenizer: TextEncoder, *, workers: int = 1) -> Iterator[EncodedBatch]:
    """Tokenize; every document becomes ``[bos] + ids + [eos]``, with the markers that the tokenizer has.

    Args:
        texts: the documents.
        tokenizer: ids must be below its ``vocab_size``.
        workers: threads. They help with tokenizers that release the interpreter lock.

    Raises:
        DataError: an id is outside the vocabulary.
    """
    before = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def encode(batch: list[str]) -> EncodedBatch:
        documents = [[*before, *ids, *after] for ids in tokenizer.encode_batch(batch)]
        lengths = np.fromiter(map(len, documents), dtype=np.int64, count=len(documents))
        tokens = np.fromiter(chain.from_iterable(documents), dtype=np.int64, count=int(lengths.sum()))
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < tokenizer.vocab_size:
            raise DataError(
                f"the tokenizer gave an id outside its vocabulary of {tokenizer.vocab_size:,} "
                f"(ids from {tokens.min()} to {tokens.max()})",
                hint="the tokenizer's files do not belong together; train or download it again",
            )
        sizes = [len(text.encode("utf-8", "surrogatepass")) for text in batch]
        return EncodedBatch(tokens, lengths, np.array(sizes, dtype=np.int64))

    threads = workers if workers > 1 else 0
    with ThreadedDataLoader(encode, _batches(texts), num_workers=threads, prefetch=2 * workers) as batches:
        yield from batches


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
