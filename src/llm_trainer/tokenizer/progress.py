"""What training a tokenizer says while it works: a line every few seconds, first for reading, then for learning."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class TrainingEcho:
    """Lines for a person, from the two callbacks that every kind of tokenizer takes when it is trained.

    Args:
        echo: prints a line.
        every: seconds between lines; training that takes less says nothing.

    Example:
        >>> from llm_trainer.tokenizer import BPETokenizer
        >>> options = TrainingEcho(print).options
        >>> _ = BPETokenizer().train_from_iterator(["low lower lowest"] * 9, vocab_size=260, **options)
    """

    def __init__(self, echo: Callable[[str], None], *, every: float = 5.0) -> None:
        self._echo = echo
        self._every = every
        self._last = time.monotonic()

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of ``train_from_iterator`` that this fills."""
        return {"text_progress": self.text, "progress": self.steps}

    def text(self, characters: int) -> None:
        """So many characters have been read."""
        self._say(f"counted the words of {characters / 1e6:,.0f} million characters")

    def steps(self, done: int, wanted: int) -> None:
        """So many steps of learning are done: merges, or for Unigram pieces that were dropped."""
        self._say(f"learned {done / max(1, wanted):.0%} of the vocabulary ({done:,} of {wanted:,} steps)")

    def _say(self, line: str) -> None:
        if time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self._echo(line)
