"""``metrics.jsonl``: one JSON object a line, appended while the run goes on; every picture of the run comes from it.

A line is written with one ``write`` call, so a process that is killed can leave at most one torn line, the last. The
reader leaves that one out, and the writer mends it before it appends, so that a torn tail never sits in the middle.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_trainer.common.files import atomic_write, explain_os_errors

METRICS_FILE = "metrics.jsonl"

Record = dict[str, Any]


@dataclass(frozen=True)
class MetricsLog:
    """What could be read of a run's metrics.

    Attributes:
        records: the lines in the order written: ``{"step": int, "time": unix seconds, name: float | None, ...}``.
        damaged_lines: lines that are not JSON objects with a step and were left out, the torn last one not counted.
    """

    records: list[Record]
    damaged_lines: int = 0

    def series(self, name: str) -> list[tuple[int, float]]:
        """The ``(step, value)`` pairs of one metric; values that were not finite are left out."""
        return [(record["step"], record[name]) for record in self.records if is_number(record.get(name))]

    def last(self, name: str) -> float | None:
        """The newest finite value of one metric."""
        return last_value(self.records, name)

    def by_step(self) -> list[Record]:
        """One record a step, in order of steps; what was written later about a step is added to what was there."""
        steps: dict[int, Record] = {}
        for record in self.records:
            steps.setdefault(record["step"], {}).update(record)
        return [steps[step] for step in sorted(steps)]


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number (``bool`` is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def last_value(records: Sequence[Record], name: str) -> float | None:
    """The last finite value of ``name`` in ``records``."""
    return next((float(record[name]) for record in reversed(records) if is_number(record.get(name))), None)


def read_metrics_log(run_dir: str | Path) -> MetricsLog:
    """Read all of a run's metrics, whatever state the run is in; a run without the file has no records."""
    path = Path(run_dir) / METRICS_FILE
    if not path.is_file():
        return MetricsLog([])
    records: list[Record] = []
    damaged = 0
    with path.open("rb") as file:
        for line in file:
            record = _parse(line)
            if record is not None:
                records.append(record)
            elif line.endswith(b"\n") and line.strip():
                damaged += 1
    return MetricsLog(records, damaged)


def read_metrics(run_dir: str | Path) -> list[Record]:
    """The metric lines of a run, oldest first; a torn last line is left out."""
    return read_metrics_log(run_dir).records


def read_recent_metrics(run_dir: str | Path, max_bytes: int = 1 << 18) -> list[Record]:
    """The lines in the last ``max_bytes`` of ``metrics.jsonl``: enough for a listing, whatever its size."""
    path = Path(run_dir) / METRICS_FILE
    if not path.is_file():
        return []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - max_bytes)
        file.seek(start)
        if start:
            file.readline()
        return [record for line in file if (record := _parse(line)) is not None]


class MetricsFile:
    """Appends metric lines to ``run_dir/metrics.jsonl``; continues an existing file and mends its torn last line.

    Args:
        run_dir: the run's folder; it is created.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / METRICS_FILE
        with explain_os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _mend_tail(self.path)
            # Unbuffered: one write() a line, so that a kill between two calls never splits a line.
            self._file = self.path.open("ab", buffering=0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line. Values that are not finite become ``null``, which JSON has and NaN is not."""
        record: Record = {"step": step, "time": round(time.time(), 3)}
        record.update((name, value if math.isfinite(value) else None) for name, value in metrics.items())
        line = (json.dumps(record, allow_nan=False) + "\n").encode("utf-8")
        with explain_os_errors(self.path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def truncate_after(self, step: int) -> None:
        """Drop every line of a later step than ``step``: a resumed run will write them again."""
        self._file.close()
        with self.path.open("rb") as old, atomic_write(self.path) as new:
            for line, record in _lines(old):
                if record["step"] <= step:
                    new.write(line)
        with explain_os_errors(self.path):
            self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        self._file.close()


def _lines(file: Iterable[bytes]) -> Iterator[tuple[bytes, Record]]:
    for line in file:
        record = _parse(line)
        if record is not None:
            yield line, record


def _parse(line: bytes) -> Record | None:
    """One line as a record, or ``None`` if it is not a JSON object with a whole-number step."""
    try:
        record = json.loads(line)
    except ValueError:  # JSONDecodeError and UnicodeDecodeError are both of this kind
        return None
    if not isinstance(record, dict):
        return None
    step = record.get("step")
    return record if isinstance(step, int) and not isinstance(step, bool) else None


def _mend_tail(path: Path) -> None:
    """Complete a last line that only lacks its newline, or cut it off if it is torn."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - (1 << 20))  # no line is a megabyte long
        file.seek(start)
        tail = file.read(size - start)
        if not tail or tail.endswith(b"\n"):
            return
        torn = tail[tail.rfind(b"\n") + 1 :]
        if _parse(torn) is not None:
            file.write(b"\n")
        else:
            file.truncate(size - len(torn))
