"""Measure tokenizers on one text: how short they make it, how fast, and whether they give it back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.common.files import atomic_write
from llm_trainer.common.optional import require
from llm_trainer.corpus import open_dataset, open_paths
from llm_trainer.tokenizer import Tokenizer, load_tokenizer

_LEAST_SECONDS = 0.3
_ROUNDS = 3
HEADERS = ("tokenizer", "kind", "vocab", "bytes/token", "tokens/word", "MB/s", "round trip")


@dataclass(frozen=True)
class Measured:
    """What one tokenizer does with a text.

    Attributes:
        name: how it was named.
        kind: its class.
        vocab_size: number of ids.
        bytes_per_token: UTF-8 bytes of the text for each token; more is shorter.
        tokens_per_word: tokens for each word between white space ("fertility"); fewer is shorter.
        megabytes_per_second: text encoded on one core in documents, the best of three rounds; the first round, which
            fills caches of words, is among them.
        exact: whether every document came back as it was.
    """

    name: str
    kind: str
    vocab_size: int
    bytes_per_token: float
    tokens_per_word: float
    megabytes_per_second: float
    exact: bool

    def row(self) -> tuple[str, ...]:
        """The cells of a table."""
        return (
            self.name,
            self.kind,
            f"{self.vocab_size:,}",
            f"{self.bytes_per_token:.3f}",
            f"{self.tokens_per_word:.3f}",
            f"{self.megabytes_per_second:.2f}",
            "exact" if self.exact else "lossy",
        )


def compare_tokenizers(
    sources: Sequence[str], *, paths: Sequence[str] | None = None, max_bytes: int = 2_000_000
) -> list[Measured]:
    """Measure each tokenizer on the same documents.

    Args:
        sources: as for :func:`~llm_trainer.tokenizer.load_tokenizer`.
        paths: files and folders of text; left out: text that is on every machine.
        max_bytes: no more text than this.

    Raises:
        DataError: a tokenizer or a text cannot be read, or there is no text.
    """
    if not sources:
        raise UserError("there is nothing to compare", hint="name one tokenizer or more")
    tokenizers = [load_tokenizer(source) for source in sources]
    documents = _documents(paths, max_bytes)
    return [measure(name, tokenizer, documents) for name, tokenizer in zip(sources, tokenizers)]


def measure(name: str, tokenizer: Tokenizer, documents: Sequence[str]) -> Measured:
    """Encode and decode documents with one tokenizer."""
    size = sum(len(text.encode("utf-8")) for text in documents)
    words = sum(len(text.split()) for text in documents)
    rows: list[list[int]] = []
    best = float("inf")
    for _ in range(_ROUNDS):
        repeats, used = 0, 0.0
        while used < _LEAST_SECONDS:
            started = time.perf_counter()
            rows = [tokenizer.encode(text) for text in documents]
            used += time.perf_counter() - started
            repeats += 1
        best = min(best, used / repeats)
    tokens = sum(map(len, rows))
    return Measured(
        name=name,
        kind=type(tokenizer).__name__,
        vocab_size=tokenizer.vocab_size,
        bytes_per_token=size / max(1, tokens),
        tokens_per_word=tokens / max(1, words),
        megabytes_per_second=size / best / 1e6,
        exact=all(tokenizer.decode(ids) == text for ids, text in zip(rows, documents)),
    )


def comparison_table(results: Sequence[Measured]) -> str:
    """Aligned columns, plain text."""
    rows = [HEADERS, *(result.row() for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADERS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def write_comparison_plot(results: Sequence[Measured], path: str | Path) -> None:
    """A PNG with bars for length and speed.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    require("matplotlib", extra="plots", purpose="drawing a comparison")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = (
        ("bytes per token", [result.bytes_per_token for result in results], "{:.2f}"),
        ("tokens per word", [result.tokens_per_word for result in results], "{:.2f}"),
        ("MB/s, one core", [result.megabytes_per_second for result in results], "{:.1f}"),
    )
    figure = Figure(figsize=(11, 1.3 + 0.45 * len(results)), layout="constrained")
    names = [_short(result.name) for result in results]
    for number, (title, values, form) in enumerate(columns):
        axes = figure.add_subplot(1, len(columns), number + 1)
        bars = axes.barh(range(len(values)), values, color="#2563c9", height=0.6)
        axes.bar_label(bars, labels=[form.format(value) for value in values], padding=3, fontsize=9)
        axes.set_yticks(range(len(values)), names if number == 0 else [""] * len(values))
        axes.invert_yaxis()
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlim(0, max(values) * 1.18)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as file:
        canvas: Any = FigureCanvasAgg(figure)
        canvas.print_png(file)


def _short(name: str) -> str:
    """The end of a long path, where it differs from others."""
    return name if len(name) <= 28 else "..." + name[-25:]


def _documents(paths: Sequence[str] | None, max_bytes: int) -> list[str]:
    documents, size = [], 0
    for text in _texts(paths):
        data = text.encode("utf-8", errors="replace")[: max_bytes - size]
        documents.append(data.decode("utf-8", errors="ignore"))
        size += len(data)
        if size >= max_bytes:
            break
    documents = [text for text in documents if text.strip()]
    if not documents:
        raise DataError("there is no text to compare on", hint="name a file that holds text with --text")
    return documents


def _texts(paths: Sequence[str] | None) -> Iterator[str]:
    handle = open_dataset("builtin") if paths is None else open_paths(paths, validation_fraction=0)
    return (document.text for document in handle)
