"""The live line: its exact form, its sums, and no control characters where nobody reads them."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from llm_trainer.monitoring.progress import ProgressDisplay, format_eta, format_line

LINE = re.compile(
    r"^Step +[\d,]+/[\d,]+ \([ \d]?\d?\d\.\d%\) \| Loss: \d+\.\d{3} \| [\d,]+ tok/s \| ETA: (\d{2,}:\d{2}[hm]|--:--)$"
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.covers("R315")
def test_the_line_is_the_documented_one() -> None:
    line = format_line(770, 26_235, 5.583, 106_212, 4 * 3600 + 23 * 60)
    assert line == "Step   770/26,235 ( 2.9%) | Loss: 5.583 | 106,212 tok/s | ETA: 04:23h"
    assert LINE.match(format_line(1, 3, 11.0, 0, None))
    assert LINE.match(format_line(1_234_567, 1_234_567, 0.5, 9e6, 0))


@pytest.mark.covers("R315")
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "--:--"),
        (0, "00:00m"),
        (59.6, "01:00m"),
        (754, "12:34m"),
        (3599.4, "59:59m"),
        (3599.6, "01:00h"),
        (15_780, "04:23h"),
        (450_000, "125:00h"),
    ],
)
def test_time_left(seconds: float | None, text: str) -> None:
    assert format_eta(seconds) == text


@pytest.mark.covers("R315")
def test_time_left_agrees_with_the_rate_that_is_shown() -> None:
    clock, stream = Clock(), io.StringIO()
    display = ProgressDisplay(1000, console=Console(file=stream), first_step=400, clock=clock)
    clock.now = 50.0  # 100 steps of 4,096 tokens: 8,192 tokens a second, 500 steps left
    display.update(500, 3.0, 100 * 4096 / 50)
    assert "| 8,192 tok/s | ETA: 04:10m" in stream.getvalue()
    display.set_total(700)
    display.update(500, 3.0, 8192)
    assert stream.getvalue().splitlines()[-1] == "Step   500/700 (71.4%) | Loss: 3.000 | 8,192 tok/s | ETA: 01:40m"


def test_piped_output_is_plain_lines() -> None:
    stream = io.StringIO()
    with ProgressDisplay(200, console=Console(file=stream, width=40)) as display:
        display.update(100, 4.0, 1000.0, eta_seconds=10)
        display.message("a model wrote \x1b[31mred\x07 and a very long line indeed that no console may wrap")
        display.update(200, 3.5, 1000.0, eta_seconds=0, validation_loss=3.75)
    first, second, third = stream.getvalue().splitlines()
    assert LINE.match(first)
    assert second.startswith("a model wrote \\x1b[31mred\\x07") and second.endswith("wrap")
    assert third.endswith("| validation loss 3.750")
    assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()


def test_a_terminal_shows_one_live_line_and_keeps_messages() -> None:
    stream = io.StringIO()
    clock = Clock()
    console = Console(file=stream, force_terminal=True, width=100, height=20, _environ={"TERM": "xterm"})
    with ProgressDisplay(200, console=console, clock=clock) as display:
        for step in range(1, 201):
            clock.now = step * 0.001
            display.update(step, 4.0, 1000.0, validation_loss=3.75)
        display.message("saved")
    text = stream.getvalue()
    assert "\x1b" in text
    assert "Step   200/200 (100.0%) | Loss: 4.000" in text
    assert "validation loss 3.750" in text and "saved" in text
    # 200 updates in 0.2 s of its clock: redrawn at most ten times a second, and at the end.
    assert text.count("Loss:") < 12


def test_disabled_shows_nothing() -> None:
    stream = io.StringIO()
    with ProgressDisplay(10, False, Console(file=stream)) as display:
        display.update(1, 4.0, 1000.0)
        display.message("hello")
    assert stream.getvalue() == ""
