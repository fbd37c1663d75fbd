"""From token ids to text while they arrive, one at a time.

A token may end in the middle of a character: an emoji is four bytes and often several tokens. Decoding each token by
itself would print replacement characters, so the unfinished bytes wait for the next token.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Protocol


class StreamDecoder(Protocol):
    """Feed ids to :meth:`push`, print what it returns, and :meth:`flush` at the end."""

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; may be empty."""
        ...

    def flush(self) -> str:
        """What is left when no more tokens come; bytes that never became a character are U+FFFD."""
        ...


class ByteStreamDecoder:
    """For tokenizers whose tokens are byte strings. All pieces joined equal ``decode`` of all ids.

    Args:
        start: begins a text; returns a function from each id, in order, to the bytes that it adds.
    """

    def __init__(self, start: Callable[[], Callable[[int], bytes]]) -> None:
        self._start = start
        self._add = start()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes."""
        return self._utf8.decode(self._add(token_id))

    def flush(self) -> str:
        """The unfinished bytes, if any, as U+FFFD; the decoder is then ready for another text."""
        self._add = self._start()
        return self._utf8.decode(b"", final=True)


class WindowStreamDecoder:
    """For any other tokenizer: decode a short window again with each token and return what was added.

    The window starts at the last place where the text was certain, so the cost of a token does not grow with the text.
    A token's text can depend on the token before it (a leading space is dropped at the start), so the window keeps the
    tokens of the previous piece as well. What was returned is not taken back: where ``tokenizers`` turns a byte that
    was a character into U+FFFD because a wrong byte follows, the stream keeps the character.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text added since the last certain place, or nothing while it ends inside a character."""
        self._pending.append(token_id)
        new = self._added()
        if not new or new.endswith("\ufffd"):
            return ""
        self._context, self._pending = self._pending, []
        return new

    def flush(self) -> str:
        """The rest, certain or not."""
        rest = self._added() if self._pending else ""
        self._context, self._pending = [], []
        return rest

    def _added(self) -> str:
        before = self._decode(self._context)
        return self._decode(self._context + self._pending)[len(before) :]
