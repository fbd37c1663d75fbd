"""Running one stage over all units: what is done already is left, what others are at is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llm_trainer.corpus.pipeline.engines import Engine
from llm_trainer.corpus.pipeline.store import StageFolder
from llm_trainer.corpus.pipeline.tasks import Task

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class StageProgress:
    """A moment of a build.

    Attributes:
        stage: its name.
        units: units that are done, and of how many.
        bytes: bytes of source files in them, and of how many.
        found: units that an earlier build had done.
        seconds: since the stage began.
    """

    stage: str
    units: tuple[int, int]
    bytes: tuple[int, int]
    found: int
    found_bytes: int
    seconds: float

    def describe(self) -> str:
        """One line for people."""
        done, total = self.units
        megabytes = (self.bytes[0] - self.found_bytes) / 1e6
        line = f"{self.stage}: {done:,} of {total:,} units"
        if self.found:
            line += f" ({self.found:,} from an earlier build)"
        if self.seconds >= 1 and megabytes >= 1:
            speed = megabytes / self.seconds
            left = (self.bytes[1] - self.bytes[0]) / 1e6 / speed
            line += f" | {speed:,.1f} MB/s" + (f" | {_duration(left)} left" if done < total else "")
        return line


Progress = Callable[[StageProgress], None]


def run_stage(
    name: str,
    work: Callable[[Task], str | None],
    tasks: Sequence[Task],
    folder: StageFolder,
    engine: Engine,
    progress: Progress,
) -> None:
    """Do every unit that is not done, on this engine, until all are.

    Args:
        name: of the stage, for people.
        work: makes one unit and returns its id, or None if another process has it.
        tasks: all units of the stage.
        folder: where their manifests appear.
        engine: who works.
        progress: called after every unit.
    """
    begin = time.monotonic()
    sizes = {task.unit.id: task.unit.bytes for task in tasks}
    done = {unit for unit in sizes if folder.is_done(unit)}
    found = len(done)
    found_bytes = sum(sizes[unit] for unit in done)

    def report() -> None:
        read = sum(sizes[unit] for unit in done)
        counts, bytes_ = (len(done), len(sizes)), (read, sum(sizes.values()))
        progress(StageProgress(name, counts, bytes_, found, found_bytes, time.monotonic() - begin))

    report()
    while len(done) < len(sizes):
        for unit in engine.map(work, [task for task in tasks if task.unit.id not in done]):
            if unit is not None:
                done.add(unit)
                report()
        if len(done) < len(sizes):  # the rest is being made by another process, here or on another machine
            time.sleep(POLL_SECONDS)
            before = len(done)
            done |= {unit for unit in sizes if unit not in done and folder.is_done(unit)}
            if len(done) > before:
                report()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
