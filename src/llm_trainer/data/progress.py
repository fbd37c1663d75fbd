"""How far packing is, as numbers and as lines for people."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from llm_trainer.data.chunk import ChunkInfo
from llm_trainer.data.encoding import EncodedBatch
from llm_trainer.data.manifest import size_reduction

PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class PackProgress:
    """A moment of packing.

    Attributes:
        documents: documents read, those in chunks of an earlier, interrupted run included.
        total_documents: how many there are, if that is known.
        found_documents: how many of ``documents`` the earlier run had packed; speed leaves them out.
        chunks: chunks written or found.
        tokens: tokens made in this run.
        chunk_tokens: tokens in all chunks.
        text_bytes: UTF-8 bytes read in this run.
        stored_bytes: size of all chunks.
        dtype: the plain type of a token, ``"uint16"`` or ``"uint32"``.
        seconds: time since the start of this run.
    """

    documents: int
    total_documents: int | None
    found_documents: int
    chunks: int
    tokens: int
    chunk_tokens: int
    text_bytes: int
    stored_bytes: int
    dtype: str
    seconds: float

    @property
    def documents_per_second(self) -> float:
        """Documents packed in this run per second."""
        return (self.documents - self.found_documents) / max(self.seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        """Tokens made in this run per second."""
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """An estimate, if the number of documents is known and some are done."""
        if self.total_documents is None or self.documents_per_second == 0:
            return None
        return max(0, self.total_documents - self.documents) / self.documents_per_second


class Tally:
    """Counts what packing has done, from any number of threads, and reports it about twice a second.

    Args:
        dtype: the plain type of a token.
        progress: called with each report.
    """

    def __init__(self, dtype: str, progress: Callable[[PackProgress], None] | None = None) -> None:
        self.total_documents: int | None = None
        self._dtype = dtype
        self._progress = progress
        self._lock = threading.Lock()
        self._documents = self._found_documents = self._chunks = 0
        self._tokens = self._chunk_tokens = self._text_bytes = self._stored_bytes = 0
        self._started = self._reported = time.monotonic()

    def found(self, info: ChunkInfo) -> None:
        """A chunk was there already, or another process made it."""
        with self._lock:
            self._documents += info.documents
            self._found_documents += info.documents
            self._count(info)

    def add(self, batch: EncodedBatch) -> None:
        """Documents were tokenized."""
        with self._lock:
            self._documents += len(batch.lengths)
            self._tokens += len(batch.tokens)
            self._text_bytes += int(batch.text_bytes.sum())
        self.report()

    def wrote(self, info: ChunkInfo) -> None:
        """A chunk was written."""
        with self._lock:
            self._count(info)
        self.report()

    def _count(self, info: ChunkInfo) -> None:
        self._chunks += 1
        self._chunk_tokens += info.tokens
        self._stored_bytes += info.bytes

    def report(self, *, final: bool = False) -> None:
        """Report, if it is time."""
        with self._lock:
            now = time.monotonic()
            if self._progress is None or (now - self._reported < PROGRESS_SECONDS and not final):
                return
            self._reported = now
            self._progress(
                PackProgress(
                    documents=self._documents,
                    total_documents=self.total_documents,
                    found_documents=self._found_documents,
                    chunks=self._chunks,
                    tokens=self._tokens,
                    chunk_tokens=self._chunk_tokens,
                    text_bytes=self._text_bytes,
                    stored_bytes=self._stored_bytes,
                    dtype=self._dtype,
                    seconds=now - self._started,
                )
            )


def format_progress(progress: PackProgress) -> str:
    """Four or five lines: samples, chunks, speed, size reduction and, where it can be known, the time left.

    Example:
        Progress: 1,250/10,000 samples (12.5%)
        Cache: 15 chunks created
        Speed: 125 samples/sec, 31,250 tokens/sec
        Compression: 83% size reduction (against int64 tokens; 31% against uint16)
        Remaining: 1m 10s
    """
    samples = f"{progress.documents:,}"
    if progress.total_documents:
        samples += f"/{progress.total_documents:,} samples ({progress.documents / progress.total_documents:.1%})"
    else:
        samples += " samples"
    lines = [
        f"Progress: {samples}",
        f"Cache: {progress.chunks:,} chunk{'' if progress.chunks == 1 else 's'} created",
        f"Speed: {progress.documents_per_second:,.0f} samples/sec, {progress.tokens_per_second:,.0f} tokens/sec",
    ]
    if progress.chunk_tokens:
        saved = size_reduction(progress.stored_bytes, progress.chunk_tokens, progress.dtype)
        lines.append(
            f"Compression: {percent(saved['int64'])} size reduction (against int64 tokens; "
            f"{percent(saved[progress.dtype])} against {progress.dtype})"
        )
    if progress.seconds_left is not None:
        lines.append(f"Remaining: {_duration(progress.seconds_left)}")
    return "\n".join(lines)


def percent(share: float) -> str:
    """``0.314`` -> ``'31%'``; nothing is ``'0%'``, on whichever side of zero."""
    return f"{round(share, 2) + 0.0:.0%}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"
