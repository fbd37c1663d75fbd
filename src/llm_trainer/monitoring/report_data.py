"""Everything that a report shows of a run, read from its folder, whatever state that folder is in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from llm_trainer.monitoring.metrics_file import MetricsLog, Record, is_number, read_metrics_log
from llm_trainer.monitoring.runs import (
    CONFIG_FILE,
    CheckpointInfo,
    held_out,
    list_checkpoints,
    load_json_list,
    load_json_object,
    parameter_count,
)
from llm_trainer.monitoring.status import StatusView, read_status

# A pause longer than this between two metric lines was not training: the machine slept, or the run was resumed.
_LONGEST_PAUSE = 600.0


@dataclass(frozen=True)
class RunData:
    """The contents of a run's folder.

    Attributes:
        name: of the run.
        path: as the person would type it.
        status: judged, see :func:`read_status`.
        log: metrics.
        config: the whole configuration; empty if there is none.
        derived: ``{"key", "value", "reason"}`` of every value that was chosen for the person.
        environment: hardware and software.
        held_out: figures of the evaluation on held-out text.
        baselines: bits per byte of compressors on the same text.
        samples: ``{"step", "temperature", "prompt", "text", "time"}``.
        checkpoints: oldest first.
        parameters: of the model.
    """

    name: str
    path: Path
    status: StatusView
    log: MetricsLog
    config: dict[str, Any]
    derived: list[Record]
    environment: dict[str, Any]
    held_out: dict[str, float]
    baselines: dict[str, float]
    samples: list[Record]
    checkpoints: list[CheckpointInfo]
    parameters: int | None

    @property
    def step(self) -> int | None:
        """The last step that is known."""
        steps = [record["step"] for record in self.log.records] + [info.step for info in self.checkpoints]
        return max([*steps, self.status.step or 0]) or None

    @property
    def bits_per_byte(self) -> float | None:
        """Of the evaluation, else of the newest validation."""
        return self.held_out.get("bits_per_byte", self.log.last("validation/bits_per_byte"))

    @property
    def seconds(self) -> float | None:
        """Time spent training: what the trainer counted, else the time between metric lines without long pauses."""
        counted = self.log.last("train/elapsed")
        if counted is not None:
            return counted
        times = [record["time"] for record in self.log.records if is_number(record.get("time"))]
        gaps = [after - before for before, after in pairwise(times)]
        return sum(gap for gap in gaps if 0 < gap < _LONGEST_PAUSE) if gaps else None

    @property
    def tokens_per_second(self) -> float | None:
        """The median over the run: neither the slow start nor a busy minute moves it."""
        values = [value for _, value in self.log.series("train/tokens_per_second")]
        return median(values) if values else None


def read_run(run_dir: str | Path) -> RunData:
    """Read a run's folder. Files that are missing or damaged leave their part empty."""
    path = Path(run_dir)
    evaluation = load_json_object(path / "evaluation.json")
    return RunData(
        name=path.resolve().name,
        path=path,
        status=read_status(path),
        log=read_metrics_log(path),
        config=_read_config(path / CONFIG_FILE),
        derived=load_json_list(path / "derived.json"),
        environment=load_json_object(path / "environment.json"),
        held_out=_numbers(held_out(path)),
        baselines=_numbers(evaluation.get("baselines")),
        samples=_read_samples(path / "samples.jsonl"),
        checkpoints=list_checkpoints(path),
        parameters=parameter_count(path),
    )


def _numbers(values: object) -> dict[str, float]:
    if not isinstance(values, dict):
        return {}
    return {str(name): float(value) for name, value in values.items() if is_number(value)}


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return config if isinstance(config, dict) else {}


def _read_samples(path: Path) -> list[Record]:
    if not path.is_file():
        return []
    samples = []
    for line in path.read_bytes().splitlines():
        try:
            sample = json.loads(line)
        except ValueError:  # the torn last line of a killed process
            continue
        if isinstance(sample, dict) and isinstance(sample.get("text"), str) and isinstance(sample.get("step"), int):
            samples.append(sample)
    return samples
