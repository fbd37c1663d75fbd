"""Texts -> documents of tokens, in batches, optionally on several threads, always in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from llm_trainer.common.errors import DataError
from llm_trainer.data.packing import IntArray
from llm_trainer.data.threads import ThreadedDataLoader

BATCH_DOCUMENTS = 512
BATCH_CHARACTERS = 1 << 18
"""A batch is handed to the tokenizer at this size: large enough to hide the hand-over, small enough to share out."""


class TextEncoder(Protocol):
    """What packing needs of a tokenizer. One that has ``encode_arrays``, as ours have, is asked for arrays."""

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
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    before = np.array([] if bos is None else [bos], dtype=np.int64)
    after = np.array([] if eos is None else [eos], dtype=np.int64)
    # Lists of Python numbers only where the tokenizer has nothing better.
    encode_texts: Callable[[list[str]], Sequence[ArrayLike]] = getattr(
        tokenizer, "encode_arrays", tokenizer.encode_batch
    )

    def encode(batch: list[str]) -> EncodedBatch:
        rows = [np.asarray(ids, dtype=np.int64) for ids in encode_texts(batch)]
        parts = [part for row in rows for part in (before, row, after)]
        lengths = np.array([len(before) + len(row) + len(after) for row in rows], dtype=np.int64)
        tokens = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
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
