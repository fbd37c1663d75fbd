"""From the tokens of one row to its text, piece by piece, ending before a stop string.

Both ``generate`` and ``stream`` build their text here, so they cannot differ. A stop string may begin in one token and
end in the next; text that could be its beginning is therefore held back until that is decided.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from llm_trainer.common.errors import UserError
from llm_trainer.tokenizer.base import Tokenizer


class StopBuffer:
    """Passes text through until one of ``stop`` occurs; neither the stop string nor anything after it comes out.

    Example:
        >>> buffer = StopBuffer(["###"])
        >>> buffer.push("one #"), buffer.push("## two"), buffer.stopped
        ('one ', '', True)
    """

    def __init__(self, stop: Sequence[str]) -> None:
        if "" in stop:
            raise UserError("a stop string must not be empty", hint="leave it out to generate without stop strings")
        self._stop = tuple(stop)
        self._longest = max(map(len, stop), default=0)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; returns what is now certain to come before any stop string."""
        if self.stopped:
            return ""
        self._held += text
        found = [index for index in map(self._held.find, self._stop) if index >= 0]
        if found:
            self.stopped = True
            ready, self._held = self._held[: min(found)], ""
            return ready
        cut = len(self._held) - self._undecided()
        ready, self._held = self._held[:cut], self._held[cut:]
        return ready

    def close(self) -> str:
        """No more text will come: what was held back is not a stop string after all."""
        ready, self._held = self._held, ""
        return ready

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0


class RowText:
    """The text of one row of tokens. Special tokens have none.

    Args:
        tokenizer: gives the text of tokens.
        prompt: the ids that the row continues. Their text is not given again, but some tokenizers drop the space
            before a word that comes first, so the decoder has to know that this one does not.
        stop: strings before which the text ends.
        shown: special tokens that do have text (the marks between the answers of a span model).
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], shown: Collection[int] = ()
    ) -> None:
        self._decoder = tokenizer.stream_decoder(skip_special_tokens=not shown)
        self._silent = frozenset(tokenizer.special_tokens.values()).difference(shown) if shown else frozenset()
        for token in prompt:
            self._decoder.push(token)
        self._buffer = StopBuffer(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has occurred; more tokens would change nothing."""
        return self._buffer.stopped

    def push(self, token: int) -> str:
        """Add a token; returns the text that is now certain: whole characters, before any stop string."""
        return "" if token in self._silent else self._buffer.push(self._decoder.push(token))

    def close(self) -> str:
        """The rest of the text. Bytes that never became a character are shown as U+FFFD, as ``decode`` shows them."""
        return self._buffer.push(self._decoder.flush()) + self._buffer.close()
