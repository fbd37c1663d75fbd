"""Encode by looking up: nearly every chunk of a text has been seen before.

A tokenizer that cuts text before it encodes gives a chunk the same ids wherever it stands. So a chunk is encoded once,
by ``tokenizers`` (compiled) where it is installed and by our readable code elsewhere, and afterwards found in a table.
The table is bounded; long chunks (base64, Chinese sentences), which hardly repeat, do not enter it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from operator import methodcaller
from typing import Any, NamedTuple

from llm_trainer.common.optional import available
from llm_trainer.tokenizer.pretokenize import compile_pattern

ChunkEncoder = Callable[[list[str]], list[list[int]]]

_MOST_CHUNKS = 200_000  # about 40 MB
_LONGEST_CHUNK = 48  # characters
# findall makes a list of all chunks: fine for a document, not for one text of gigabytes.
_BLOCK_CHARACTERS = 4_000_000
_BLOCK_CHUNKS = 500_000


class CacheInfo(NamedTuple):
    """How often chunks were found in the table: ``hits`` of ``hits + misses``; ``size`` chunks are in it."""

    hits: int
    misses: int
    size: int


class CachedEncoder:
    """Cuts texts into chunks and joins the chunks' ids.

    Args:
        pattern: regular expression that finds the chunks; characters between matches have no ids.
        encode_chunks: the ids of each of some chunks, without regard to any other chunk.
    """

    def __init__(self, pattern: str, encode_chunks: ChunkEncoder) -> None:
        self._cut = compile_pattern(pattern)
        self._encode_chunks = encode_chunks
        self._table: dict[str, list[int]] = {}
        self._hits = 0
        self._misses = 0

    def encode(self, text: str) -> list[int]:
        """The ids of a text without surrogates."""
        if len(text) <= _BLOCK_CHARACTERS:
            return self._join(self._cut.findall(text))
        return list(chain.from_iterable(map(self._join, self._blocks(text))))

    def _blocks(self, text: str) -> Iterator[list[str]]:
        chunks = map(methodcaller("group"), self._cut.finditer(text))
        while block := list(islice(chunks, _BLOCK_CHUNKS)):
            yield block

    def _join(self, chunks: list[str]) -> list[int]:
        table, uncached = self._with(chunks)
        if not uncached:
            return list(chain.from_iterable(map(table.__getitem__, chunks)))
        both = (uncached[chunk] if chunk in uncached else table[chunk] for chunk in chunks)
        return list(chain.from_iterable(both))

    def _with(self, chunks: list[str]) -> tuple[Mapping[str, list[int]], Mapping[str, list[int]]]:
        """The table with all short chunks in it, and the ids of the long ones."""
        different = set(chunks)
        table = self._table
        new = different.difference(table)
        self._misses += len(new)
        self._hits += len(chunks) - len(new)
        if not new:
            return table, {}
        if len(table) + len(new) > _MOST_CHUNKS:
            # A new table rather than an emptied one: another thread may be reading the old one.
            table = self._table = {}
            new = different
        ordered = list(new)
        encoded = dict(zip(ordered, self._encode_chunks(ordered), strict=True))
        table.update((chunk, ids) for chunk, ids in encoded.items() if len(chunk) <= _LONGEST_CHUNK)
        return table, {chunk: ids for chunk, ids in encoded.items() if len(chunk) > _LONGEST_CHUNK}

    def info(self) -> CacheInfo:
        """Hits and misses since the encoder was made."""
        return CacheInfo(self._hits, self._misses, len(self._table))


def compiled_chunk_encoder(definition: Mapping[str, Any]) -> ChunkEncoder | None:
    """An encoder of chunks that runs in ``tokenizers``, or ``None`` where that package is not installed.

    Args:
        definition: the content of a ``tokenizer.json`` that takes a chunk as it is and adds no tokens.
    """
    if not available("tokenizers"):
        return None
    return _CompiledEncoder(json.dumps(definition, ensure_ascii=False))


class _CompiledEncoder:
    def __init__(self, definition: str) -> None:
        self._backend: Any = importlib.import_module("tokenizers").Tokenizer.from_str(definition)

    def __call__(self, chunks: Iterable[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(chunks, add_special_tokens=False)]
