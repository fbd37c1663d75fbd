"""Ctrl-C and SIGTERM: the first asks the loop to save and stop, the second stops at once.

Stopping at once loses nothing that was saved, because checkpoints are committed by one rename.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

SAME_PRESS_SECONDS = 0.3
"""A launcher passes Ctrl-C on to processes that the terminal has told already; that is not a second press."""


class InterruptGuard:
    """While the block runs, SIGINT and SIGTERM set :attr:`requested` instead of raising.

    Outside the main thread Python cannot install handlers; the guard then does nothing.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested: str | None = None
        self._asked = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            if time.monotonic() - self._asked < SAME_PRESS_SECONDS:
                return
            _say(b"\nstopped at once; the last checkpoint is intact\n")
            os._exit(128 + number)
        self.requested = signal.Signals(number).name
        self._asked = time.monotonic()
        _say(b"\nstopping after this step and saving; press Ctrl-C again to stop at once\n")


def _say(text: bytes) -> None:
    """Write to the terminal from a signal handler, where printing is not safe; there may be none to write to."""
    with contextlib.suppress(OSError):
        os.write(2, text)
