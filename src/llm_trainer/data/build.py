"""Texts -> a packed cache on disk, one work unit and so one chunk at a time.

Memory holds one unit, however long the input is. Chunks are written whole or not at all, and the manifest after all of
them. A run that was interrupted is continued: chunks that are there, whole, and made from the same text in the same way
are kept, the documents in them are skipped, and the result is byte for byte what an uninterrupted run writes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.files import explain_os_errors
from llm_trainer.data.cache import TokenCache
from llm_trainer.data.chunk import ChunkInfo, ChunkReader, PackedSequence, TokenArray, write_chunk
from llm_trainer.data.encoding import EncodedBatch, HasText, TextEncoder, document_texts, encode_documents
from llm_trainer.data.manifest import (
    MANIFEST,
    Manifest,
    Origin,
    PackConfig,
    chunk_files,
    chunk_metadata,
    chunk_path,
    manifest_of,
)
from llm_trainer.data.order import stable_permutation
from llm_trainer.data.packing import IntArray, Packer, Packing, pack
from llm_trainer.data.progress import PackProgress

UNIT_TOKENS = 2_000_000
"""At most one partly filled sequence a unit: 0.03 % of the positions at 512 tokens, 0.1 % at 2,048."""
PROGRESS_SECONDS = 0.5


def build_cache(
    documents: Iterable[str | HasText],
    tokenizer: TextEncoder,
    cache_dir: str | Path,
    *,
    seq_len: int,
    unit_tokens: int = UNIT_TOKENS,
    codec: str = "lz4",
    packer: Packer = "bfd",
    workers: int = 1,
    total_documents: int | None = None,
    source_fingerprint: str = "",
    source_description: str = "",
    progress: Callable[[PackProgress], None] | None = None,
    force_rebuild: bool = False,
) -> TokenCache:
    """Tokenize and pack documents into ``cache_dir``, or open the cache there if it is of the same text and settings.

    Args:
        documents: texts, or objects with a ``text``; read once, as a stream. Empty texts are left out.
        tokenizer: what turns text into ids.
        cache_dir: the folder, made if need be. Files of others in it are left alone.
        seq_len: tokens per sequence.
        unit_tokens: a chunk ends with the document that reaches this many tokens.
        codec: ``"lz4"`` or ``"none"``.
        packer: ``"bfd"`` keeps documents whole wherever they fit, ``"concat"`` cuts them at every border.
        workers: threads that tokenize.
        total_documents: their number, if it is known, for percentages and the time left.
        source_fingerprint: changes when the text changes. Without one, a folder that holds a cache is refused.
        source_description: the text, for people; kept in the manifest.
        progress: called about twice a second and at the end.
        force_rebuild: first delete the cache that is there.

    Raises:
        DataError: no text, a folder with another cache, or documents that differ from those packed so far.
        UserError: the disk is full, or the folder cannot be written. What was written before is kept.
    """
    config = PackConfig(tokenizer.fingerprint(), tokenizer.vocab_size, seq_len, packer, codec, unit_tokens)
    origin = Origin(config, source_fingerprint, source_description)
    folder = Path(cache_dir)
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if force_rebuild:
            _delete(folder, keep_chunks=0)
    _refuse_other_cache(folder, origin)
    if (folder / MANIFEST).exists():
        # A damaged or missing file is not refused: the chunks before it are kept and the rest is made again.
        with contextlib.suppress(CorruptionError):
            return TokenCache.open(folder)

    found = _finished_chunks(folder, origin)
    with explain_os_errors(folder):
        _delete(folder, keep_chunks=len(found))
    if found and found[-1].metadata["last"]:
        manifest_of(folder, found, origin)
    else:
        writer = CacheWriter(folder, origin, [reader.info for reader in found], total_documents, progress)
        texts = document_texts(documents)
        _skip(texts, writer.found_documents, folder)
        for batch in encode_documents(texts, tokenizer, workers=workers):
            writer.add(batch)
        writer.finish().write(folder)
    return TokenCache.open(folder)


class CacheWriter:
    """Collects tokenized documents into units and writes a chunk for each.

    Args:
        folder: where the chunks go.
        origin: configuration and source, stored in every chunk.
        found: chunks that are already there; the writer goes on after them.
        total_documents: for progress.
        progress: for progress.
    """

    def __init__(
        self,
        folder: Path,
        origin: Origin,
        found: list[ChunkInfo],
        total_documents: int | None = None,
        progress: Callable[[PackProgress], None] | None = None,
    ) -> None:
        self._folder = folder
        self._origin = origin
        self._chunks = list(found)
        self.found_documents = sum(chunk.documents for chunk in found)
        self._total_documents = total_documents
        self._progress = progress
        self._unit = _Unit()
        self._documents, self._tokens, self._text_bytes = self.found_documents, 0, 0
        self._started = self._reported = time.monotonic()

    def add(self, batch: EncodedBatch) -> None:
        """Add documents; writes a chunk whenever a unit is full and another document follows it."""
        first = 0
        while first < len(batch.lengths):
            if self._unit.tokens >= self._origin.config.unit_tokens:
                self._write_unit(last=False)
            missing = self._origin.config.unit_tokens - self._unit.tokens
            # Up to and with the document that fills the unit.
            ends = np.cumsum(batch.lengths[first:])
            stop = first + min(int(np.searchsorted(ends, missing)) + 1, len(ends))
            self._unit.add(batch, first, stop)
            first = stop
        self._documents += len(batch.lengths)
        self._tokens += len(batch.tokens)
        self._text_bytes += int(batch.text_bytes.sum())
        self._report()

    def finish(self) -> Manifest:
        """Write the last chunk.

        Raises:
            DataError: there were no documents, or none after chunks that are not the last ones.
        """
        if not self._unit.tokens:
            if self._chunks:
                raise _source_changed(self._folder)
            where = f" in {self._origin.source}" if self._origin.source else ""
            raise DataError(
                f"there is no text to pack into {self._folder}{where}", hint="name files or folders that contain text"
            )
        self._write_unit(last=True)
        self._report(final=True)
        return Manifest(self._origin, tuple(self._chunks))

    def _write_unit(self, *, last: bool) -> None:
        number, unit, config = len(self._chunks), self._unit, self._origin.config
        tokens, lengths = unit.joined(config.dtype)
        packing = pack(lengths, config.seq_len, config.packer)
        if config.packer == "bfd":
            # They come longest piece first; mixed, any first part of a cache is a fair sample of it.
            packing = packing.reorder(stable_permutation(len(packing), "unit", number))
        self._chunks.append(
            write_chunk(
                chunk_path(self._folder, number),
                list(_sequences(tokens, lengths, packing)),
                seq_len=config.seq_len,
                dtype=config.dtype,
                codec=config.codec,
                documents=len(lengths),
                text_bytes=unit.text_bytes,
                tokens_in=unit.tokens,
                metadata=chunk_metadata(self._origin, number, last=last),
            )
        )
        self._unit = _Unit()

    def _report(self, *, final: bool = False) -> None:
        now = time.monotonic()
        if self._progress is None or (now - self._reported < PROGRESS_SECONDS and not final):
            return
        self._reported = now
        self._progress(
            PackProgress(
                documents=self._documents,
                total_documents=self._total_documents,
                found_documents=self.found_documents,
                chunks=len(self._chunks),
                tokens=self._tokens,
                chunk_tokens=sum(chunk.tokens for chunk in self._chunks),
                text_bytes=self._text_bytes,
                stored_bytes=sum(chunk.bytes for chunk in self._chunks),
                dtype=self._origin.config.dtype,
                seconds=now - self._started,
            )
        )


class _Unit:
    """Documents that will make one chunk."""

    def __init__(self) -> None:
        self.tokens = 0
        self.text_bytes = 0
        self._parts: list[tuple[IntArray, IntArray]] = []

    def add(self, batch: EncodedBatch, first: int, stop: int) -> None:
        """Take documents ``first`` to ``stop`` of a batch."""
        ends = np.concatenate(([0], np.cumsum(batch.lengths)))
        tokens = batch.tokens[ends[first] : ends[stop]]
        self._parts.append((tokens, batch.lengths[first:stop]))
        self.tokens += len(tokens)
        self.text_bytes += int(batch.text_bytes[first:stop].sum())

    def joined(self, dtype: str) -> tuple[TokenArray, IntArray]:
        """All tokens end to end, in their stored type, and the documents' lengths."""
        tokens = np.concatenate([tokens.astype(dtype) for tokens, _ in self._parts])
        return tokens, np.concatenate([lengths for _, lengths in self._parts])


def _sequences(tokens: TokenArray, lengths: IntArray, packing: Packing) -> Iterator[PackedSequence]:
    """The rows of a packing, filled with tokens."""
    offsets = (np.cumsum(lengths) - lengths)[packing.document]
    firsts, stops = (offsets + packing.start).tolist(), (offsets + packing.stop).tolist()
    sizes = (packing.stop - packing.start).astype(np.uint32)
    bounds = packing.row_bounds.tolist()
    for begin, end in pairwise(bounds):
        pieces = [tokens[first:stop] for first, stop in zip(firsts[begin:end], stops[begin:end])]
        yield PackedSequence(np.concatenate(pieces), sizes[begin:end])


def _refuse_other_cache(folder: Path, origin: Origin) -> None:
    """Stop if the folder belongs to other text or settings; only --force-rebuild may destroy a cache."""
    there = _origin_there(folder)
    if there is None:
        return
    differences = there.differences(origin)
    if differences or not origin.source_fingerprint:
        what = (
            f"another cache: {', '.join(differences)}" if differences else "a cache of texts that cannot be told apart"
        )
        raise DataError(f"{folder} holds {what}", hint="choose another folder, or replace it with --force-rebuild")


def _origin_there(folder: Path) -> Origin | None:
    """What the cache in the folder says that it is, by its manifest or else by its first chunk."""
    if (folder / MANIFEST).exists():
        with contextlib.suppress(CorruptionError):
            return Manifest.read(folder).origin
    with contextlib.suppress(CorruptionError):
        return Origin.from_dict(ChunkReader(chunk_path(folder, 0)).metadata)
    return None


def _finished_chunks(folder: Path, origin: Origin) -> list[ChunkReader]:
    """The whole, undamaged chunks of this origin from the first one on, up to the first gap."""
    readers: list[ChunkReader] = []
    for unit, path in enumerate(chunk_files(folder)):
        try:
            reader = ChunkReader(path)
            reader.verify()
        except CorruptionError:
            break
        if reader.metadata["unit"] != unit or Origin.from_dict(reader.metadata).differences(origin):
            break
        readers.append(reader)
    return readers


def _skip(texts: Iterator[str], count: int, folder: Path) -> None:
    """Leave out the documents that are in finished chunks."""
    if sum(1 for _ in islice(texts, count)) < count:
        raise _source_changed(folder)


def _source_changed(folder: Path) -> DataError:
    return DataError(
        f"{folder} was begun with more documents than there are now, under the same fingerprint",
        hint="pack from the start with --force-rebuild",
    )


def _delete(folder: Path, *, keep_chunks: int) -> None:
    """Delete the manifest, all chunks but the first ones, and what a killed run left half-written."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in chunk_files(folder)[keep_chunks:]:
        path.unlink()
    for pattern in (f".{MANIFEST}.*.tmp", ".chunk-*.tmp"):
        for path in folder.glob(pattern):
            path.unlink()
