"""How far packing is, as numbers and as lines for people."""

from __future__ import annotations

from dataclasses import dataclass

from llm_trainer.data.manifest import size_reduction


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
            f"Compression: {saved['int64']:.0%} size reduction (against int64 tokens; "
            f"{saved[progress.dtype]:.0%} against {progress.dtype})"
        )
    if progress.seconds_left is not None:
        lines.append(f"Remaining: {_duration(progress.seconds_left)}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"
