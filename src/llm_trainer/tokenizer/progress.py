"""What training a tokenizer says while it works: a line every few seconds, first for reading, then for merging."""

from __future__ import annotations

import time
from collections.abc import Callable


class TrainingEcho:
    """Lines for a person, from the two callbacks of :meth:`BPETokenizer.train_from_iterator`.

    Args:
        echo: prints a line.
        every: seconds between lines; training that takes less says nothing.

    Example:
        >>> say = TrainingEcho(print)
        >>> options = {"text_progress": say.text, "progress": say.merges}
    """

    def __init__(self, echo: Callable[[str], None], *, every: float = 5.0) -> None:
        self._echo = echo
        self._every = every
        self._last = time.monotonic()

    def text(self, characters: int) -> None:
        """So many characters have been counted."""
        self._say(f"counted the words of {characters / 1e6:,.0f} million characters")

    def merges(self, done: int, wanted: int) -> None:
        """So many merges have been learned."""
        self._say(f"learned {done:,} of {wanted:,} merges")

    def _say(self, line: str) -> None:
        if time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self._echo(line)
