"""A cache of packed sequences, for reading."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.data.chunk import REPACK_HINT, Block, ChunkInfo, ChunkReader, PackedSequence
from llm_trainer.data.manifest import MANIFEST, REBUILD_HINT, Manifest, PackConfig
from llm_trainer.data.packing import IntArray

OPEN_CHUNKS = 64
"""Chunks kept mapped at once; each costs a file descriptor, of which a process often has only 1,024."""
BLOCK_MEMORY = 128 << 20
"""Bytes of decompressed blocks kept. A window of the shuffled order takes 1 MB at 512 tokens, 17 MB at 8,192."""


class TokenCache:
    """Packed sequences on disk, read in any order by any number of threads.

    Use :meth:`open`. ``len(cache)`` is the number of sequences.

    Attributes:
        folder: where it lives.
        manifest: what is in it and what it was made from.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = Manifest(manifest.origin, ())
        self.chunk_starts: IntArray = np.zeros(1, dtype=np.int64)
        """The first sequence of every chunk, and the number of all. (chunks + 1,)"""
        self.block_starts: IntArray = np.zeros(0, dtype=np.int64)
        """The first sequence of every compressed block. (blocks,)"""
        self._readers: OrderedDict[int, ChunkReader] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], Block] = OrderedDict()
        self._block_bytes = 0
        self._lock = threading.Lock()
        self._append(manifest.chunks)

    def _append(self, chunks: Sequence[ChunkInfo]) -> None:
        """Take chunks in, after those that are there. Their headers and block tables are checked."""
        before = len(self.manifest.chunks)
        manifest = Manifest(self.manifest.origin, (*self.manifest.chunks, *chunks))
        ends = np.cumsum([0, *(chunk.sequences for chunk in manifest.chunks)])
        readers = [self._reader(index, manifest) for index in range(before, len(manifest.chunks))]
        starts = [first + reader.block_starts() for first, reader in zip(ends[before:], readers)]
        self.manifest, self.chunk_starts = manifest, ends
        self.block_starts = np.concatenate([self.block_starts, *starts])

    @classmethod
    def open(
        cls, folder: str | Path, *, expect_tokenizer: str | None = None, expect_seq_len: int | None = None
    ) -> TokenCache:
        """Open a cache; manifest, and header and block table of every chunk are checked now, blocks when they are read.

        Args:
            folder: the cache.
            expect_tokenizer: fingerprint of the tokenizer that will be used with the tokens.
            expect_seq_len: sequence length that the caller needs.

        Raises:
            DataError: there is no cache, or it was made with another tokenizer or sequence length.
            CorruptionError: a file is missing or damaged; the message names it.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"there is no cache at {folder}", hint="make one: llm-trainer data pack --help")
        manifest = Manifest.read(folder)
        check_expectations(folder, manifest.origin.config, expect_tokenizer, expect_seq_len)
        cache = cls(folder, manifest)
        if not cache._reader(len(manifest.chunks) - 1).metadata["last"]:
            raise CorruptionError(
                f"{folder / MANIFEST} names {len(manifest.chunks):,} chunks, and there must be more", hint=REBUILD_HINT
            )
        return cache

    def __len__(self) -> int:
        return int(self.chunk_starts[-1])

    @property
    def seq_len(self) -> int:
        """Positions in a sequence."""
        return self.manifest.origin.config.seq_len

    @property
    def fingerprint(self) -> str:
        """Identity of all tokens in order; a checkpoint stores it and refuses another."""
        return self.manifest.fingerprint

    def read(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[PackedSequence]:
        """The sequences at ``indices``, in that order.

        Raises:
            CorruptionError: a block is damaged; the message names file and block.
            IndexError: there is no such sequence.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"sequence indices must be from 0 to {len(self) - 1}")
        chunks = np.searchsorted(self.chunk_starts, wanted, side="right") - 1
        blocks = np.searchsorted(self.block_starts, wanted, side="right") - 1
        first_blocks = np.searchsorted(self.block_starts, self.chunk_starts[chunks])
        rows = wanted - self.block_starts[blocks]
        places = zip(chunks.tolist(), (blocks - first_blocks).tolist(), rows.tolist())
        return [self._block(chunk, block)[row] for chunk, block, row in places]

    def scan(self) -> Iterator[Block]:
        """All blocks in order, without keeping any: the fastest way through a cache.

        Raises:
            CorruptionError: a block is damaged; the message names file and block.
        """
        for chunk in range(len(self.manifest.chunks)):
            reader = self._reader(chunk)
            for index in range(reader.blocks):
                yield reader.block(index)

    def verify(self) -> None:
        """Read and check every byte.

        Raises:
            CorruptionError: naming the first damaged file and block.
        """
        for index in range(len(self.manifest.chunks)):
            self._reader(index).verify()

    def _reader(self, index: int, manifest: Manifest | None = None) -> ChunkReader:
        with self._lock:
            if index in self._readers:
                self._readers.move_to_end(index)
                return self._readers[index]
        expected = (manifest or self.manifest).chunks[index]
        reader = ChunkReader(self.folder / expected.file)
        if reader.info != expected:
            raise CorruptionError(f"{reader.path} is not the chunk that the manifest names", hint=REPACK_HINT)
        with self._lock:
            self._readers[index] = reader
            while len(self._readers) > OPEN_CHUNKS:
                self._readers.popitem(last=False)  # unmapped once no block points into it
        return reader

    def _block(self, chunk: int, index: int) -> Block:
        key = (chunk, index)
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        # Outside the lock, so that threads decompress in parallel; two may now and then do the same block.
        block = self._reader(chunk).block(index)
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = block
                self._block_bytes += block.nbytes
            while self._block_bytes > BLOCK_MEMORY and len(self._blocks) > 1:
                self._block_bytes -= self._blocks.popitem(last=False)[1].nbytes
        return block


def check_expectations(
    folder: Path, config: PackConfig, expect_tokenizer: str | None, expect_seq_len: int | None
) -> None:
    """Refuse a cache that was made for another tokenizer or sequence length.

    Raises:
        DataError: naming both.
    """
    if expect_tokenizer is not None and expect_tokenizer != config.tokenizer:
        raise DataError(
            f"{folder} was packed with tokenizer {config.tokenizer}, not with {expect_tokenizer}: "
            "its numbers mean other text",
            hint="use that tokenizer, or pack again with this one: llm-trainer data pack ... --force-rebuild",
        )
    if expect_seq_len is not None and expect_seq_len != config.seq_len:
        raise DataError(
            f"{folder} holds sequences of {config.seq_len} tokens, {expect_seq_len} are asked for",
            hint="ask for that length, or pack again with this one: llm-trainer data pack ... --force-rebuild",
        )
