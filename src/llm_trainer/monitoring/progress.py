"""What a person sees while a run goes on: one live line and a bar on a terminal, plain lines when piped.

The line: ``Step   770/26,235 ( 2.9%) | Loss: 5.583 | 106,212 tok/s | ETA: 04:23h``. The trainer derives the time left
from the rate that the same line shows, so the two can be checked against each other. From one hour on it reads
``HH:MMh``, below that ``MM:SSm``, and ``--:--`` until a rate is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llm_trainer.common.web_page import printable

# Ten redraws a second look live; more only cost time that training could use.
_REDRAW_SECONDS = 0.1


def format_eta(seconds: float | None) -> str:
    """``15780`` -> ``'04:23h'``, ``754`` -> ``'12:34m'``, ``None`` -> ``'--:--'``."""
    if seconds is None:
        return "--:--"
    whole = max(0, round(seconds))
    if whole < 3600:
        return f"{whole // 60:02d}:{whole % 60:02d}m"
    minutes = round(whole / 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}h"


def format_line(step: int, total_steps: int, loss: float, tokens_per_second: float, eta_seconds: float | None) -> str:
    """The live line.

    Args:
        step: steps done.
        total_steps: steps planned.
        loss: nats per token.
        tokens_per_second: the measured rate over all devices.
        eta_seconds: time left, or ``None`` if it is not known yet.
    """
    percent = 100.0 * step / max(1, total_steps)
    return (
        f"Step {step:>5,}/{total_steps:,} ({percent:4.1f}%) | Loss: {loss:.3f} | "
        f"{tokens_per_second:,.0f} tok/s | ETA: {format_eta(eta_seconds)}"
    )


class ProgressDisplay:
    """Shows the progress of one run.

    Args:
        total_steps: steps planned; :meth:`set_total` changes it (runs that are limited by time).
        enabled: ``False`` shows nothing (all ranks but the first).
        console: where to show it; standard output when left out.
        first_step: the step that the run starts from (resume).
        clock: seconds, monotonic; for tests.
    """

    def __init__(
        self,
        total_steps: int,
        enabled: bool = True,
        console: Console | None = None,
        *,
        first_step: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total_steps
        self._enabled = enabled
        self._console = console or Console()
        self._first_step = first_step
        self._clock = clock
        self._start = clock()
        self._drawn = float("-inf")
        self._step = first_step
        self._line = ""
        self._validation = ""
        self._live: Live | None = None
        if enabled and self._console.is_terminal and not self._console.is_dumb_terminal:
            # No refresh thread: it would take the interpreter lock from the training loop four times a second.
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()

    def set_total(self, total_steps: int) -> None:
        """Change the number of planned steps (a run by minutes learns it as it goes)."""
        self._total = total_steps

    def update(
        self,
        step: int,
        loss: float,
        tokens_per_second: float,
        *,
        eta_seconds: float | None = None,
        validation_loss: float | None = None,
    ) -> None:
        """Show a step.

        Args:
            step: steps done.
            loss: training loss, nats per token.
            tokens_per_second: measured rate over all devices.
            eta_seconds: time left; when left out, it follows from the time that the steps took since the display was
                made.
            validation_loss: newest validation loss; the one shown before stays until there is a new one.
        """
        self._step = step
        if eta_seconds is None:
            eta_seconds = self._time_left(step)
        self._line = format_line(step, self._total, loss, tokens_per_second, eta_seconds)
        if validation_loss is not None:
            self._validation = f"validation loss {validation_loss:.3f}"
        if self._live is None:
            self._print(self._line + (f" | {self._validation}" if validation_loss is not None else ""))
        elif self._clock() - self._drawn >= _REDRAW_SECONDS or step >= self._total:
            self._draw()

    def message(self, text: str) -> None:
        """Say something in words, above the live line."""
        text = printable(text)
        if self._live is None:
            self._print(text)
        else:
            self._live.console.print(Text(text))

    def close(self) -> None:
        """Leave the last line on the screen and give the terminal back; closing twice does nothing."""
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _time_left(self, step: int) -> float | None:
        done = step - self._first_step
        return max(0, self._total - step) * (self._clock() - self._start) / done if done > 0 else None

    def _print(self, text: str) -> None:
        # Not through the console: it wraps at 80 columns when piped, and a line of a log file is one line.
        if self._enabled:
            self._console.file.write(text + "\n")
            self._console.file.flush()

    def _draw(self) -> None:
        if self._live is None or not self._line:
            return
        self._drawn = self._clock()
        row = Table.grid(padding=(0, 2))
        row.add_row(ProgressBar(self._total or 1, min(self._step, self._total), width=40), Text(self._validation))
        self._live.update(Group(Text(self._line, no_wrap=True, overflow="crop"), row), refresh=True)
