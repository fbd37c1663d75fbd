"""How often each pre-token occurs: all that BPE training needs to know of a text.

Texts are read as a stream and forgotten, so memory follows the different pre-tokens, not the size of the text. Small
inputs are counted here; once an input has proved large, the rest goes to worker processes in batches, with a bounded
number of batches under way.

Addition has no order: the counts, and so the merges, do not depend on the number of workers or on who finishes first.

Different pre-tokens are bounded too. Where they have more than :data:`MOST_CHARACTERS` in all, the rarest are
forgotten, as in lossy counting (Manku and Motwani 2002, https://www.vldb.org/conf/2002/S10P03.pdf): a pre-token that
comes back starts again from nothing, so its count may be too low by what was forgotten. Below the bound it is exact.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from operator import methodcaller
from typing import NamedTuple

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.tokenizer.base import TextTypeError
from llm_trainer.tokenizer.pretokenize import compile_pattern, replace_surrogates

# Starting workers costs about 0.1 s; below this many characters one process is as fast.
_PARALLEL_FROM = 8_000_000
_BATCH_CHARACTERS = 2_000_000
_BLOCK_CHARACTERS = 1_000_000

MOST_CHARACTERS = 24_000_000
"""Bound of the different pre-tokens, in characters of all together: two million words of ten letters, for which
training takes 1.4 GB at its peak. 69 MB of novels, questions, tables and other texts have 2.8 million."""

# A longer "word" is data (base64, DNA, a file without spaces), of which every piece would be another word. It is
# counted in pieces. Encoding has no such limit.
_LONGEST_WORD = 65_536

TextProgress = Callable[[int], None]


def count_pretokens(
    texts: Iterable[str], pattern: str, *, workers: int | None = None, progress: TextProgress | None = None
) -> Counter[bytes]:
    """Count the pre-tokens of a stream of texts.

    Args:
        texts: read once, in batches of about two million characters.
        pattern: regular expression of the cut.
        workers: processes for large inputs. ``None``: one for each CPU where processes can be forked (Linux), else 1.
            More than 1 on macOS and Windows needs the usual ``if __name__ == "__main__":`` in the calling script.
        progress: called now and then with the number of characters counted so far.

    Returns:
        UTF-8 bytes of each pre-token -> number of occurrences.

    Raises:
        DataError: there is no text, or a worker died.
        TextTypeError: one of the texts is not a string.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TextTypeError(
            f"the training texts are {type(texts).__name__}, not a list of texts", hint="pass a list: [text]"
        )
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}", hint="use 1 or more, or leave it out")
    batches = _batches(texts)
    total = _Total(progress)
    processes = workers or _default_workers()
    for batch in batches:
        total.add(_count_batch(batch, pattern))
        if processes > 1 and total.characters >= _PARALLEL_FROM:
            break
    if processes > 1:
        _count_in_processes(total, batches, pattern, processes)
    if not total.counts:
        raise DataError("there is no text to train a tokenizer on", hint="check the paths, the split and the filters")
    return total.as_bytes()


class _Total:
    """The sum of the batches, held below :data:`MOST_CHARACTERS`."""

    def __init__(self, progress: TextProgress | None) -> None:
        self.counts: Counter[str] = Counter()
        self.characters = 0
        self._progress = progress

    def add(self, batch: _Counted) -> None:
        self.counts.update(batch.counts)
        self.characters += batch.characters
        if sum(map(len, self.counts)) > MOST_CHARACTERS:
            self._forget_rarest()
        if self._progress is not None:
            self._progress(self.characters)

    def _forget_rarest(self) -> None:
        """Forget words from the rarest up, all of one count together, until three quarters of the bound are left."""
        size_by_count: Counter[int] = Counter()
        for word, count in self.counts.items():
            size_by_count[count] += len(word)
        size, least = sum(size_by_count.values()), 0
        for count in sorted(size_by_count):
            if size <= MOST_CHARACTERS * 3 // 4:
                break
            size, least = size - size_by_count[count], count
        self.counts = Counter({word: count for word, count in self.counts.items() if count > least})

    def as_bytes(self) -> Counter[bytes]:
        """The counts by UTF-8 bytes. Each word is dropped when it is copied, so there are never two whole tables."""
        in_bytes: Counter[bytes] = Counter()
        while self.counts:
            word, count = self.counts.popitem()
            in_bytes[word.encode("utf-8")] = count
        return in_bytes


class _Counted(NamedTuple):
    """What a worker found in a batch."""

    counts: Counter[str]
    characters: int


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextTypeError(
                f"text {number} of the training texts is {type(text).__name__}, not str",
                hint="pass an iterable of strings, for example (document.text for document in documents)",
            )
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _count_batch(texts: list[str], pattern: str) -> _Counted:
    """Count the pre-tokens of a few texts; this is what a worker does."""
    cut = compile_pattern(pattern)
    counts: Counter[str] = Counter()
    for text in texts:
        text = replace_surrogates(text)
        # findall is three times as fast, and makes a list: fine for a block, not for one text of gigabytes.
        long = len(text) > 2 * _BLOCK_CHARACTERS
        counts.update(map(methodcaller("group"), cut.finditer(text)) if long else cut.findall(text))
    for word in [word for word in counts if len(word) > _LONGEST_WORD]:
        count = counts.pop(word)
        for start in range(0, len(word), _LONGEST_WORD):
            counts[word[start : start + _LONGEST_WORD]] += count
    return _Counted(counts, sum(map(len, texts)))


def _count_in_processes(total: _Total, batches: Iterator[list[str]], pattern: str, processes: int) -> None:
    """Count the remaining batches in worker processes; at most two batches for each of them are in memory."""
    first = next(batches, None)
    if first is None:
        return
    context = multiprocessing.get_context("fork" if _can_fork() else "spawn")
    pending: set[Future[_Counted]] = set()
    try:
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            pending.add(pool.submit(_count_batch, first, pattern))
            for batch in batches:
                if len(pending) >= 2 * processes:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        total.add(future.result())
                pending.add(pool.submit(_count_batch, batch, pattern))
            for future in pending:
                total.add(future.result())
    except BrokenProcessPool:
        raise DataError(
            "a process that counts words ended unexpectedly (out of memory, or a script without "
            'if __name__ == "__main__":)',
            hint="pass workers=1",
        ) from None


def _can_fork() -> bool:
    # macOS has fork, but its system libraries may crash in the child, so Python does not use it there either.
    return sys.platform == "linux"


def _default_workers() -> int:
    if not _can_fork():
        return 1
    return len(os.sched_getaffinity(0))
