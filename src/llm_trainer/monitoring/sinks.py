"""Where metrics go besides ``metrics.jsonl``: TensorBoard and Weights & Biases, both optional packages."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import explain_os_errors
from llm_trainer.common.optional import require

TENSORBOARD_FOLDER = "tensorboard"


class Sink(Protocol):
    """Something that takes metrics, step by step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one step."""

    def truncate_after(self, step: int) -> None:
        """Forget what was logged after ``step``; the run goes on from there."""

    def close(self) -> None:
        """Flush and release."""


class TensorBoardSink:
    """Scalar events under ``run_dir/tensorboard``.

    The events are written through TensorBoard's own record writer and not through ``SummaryWriter``: that one puts the
    machine's host name into the file name and starts a thread.

    Args:
        run_dir: the run's folder.

    Raises:
        UserError: TensorBoard is not installed, or the folder cannot be written.
    """

    def __init__(self, run_dir: str | Path) -> None:
        purpose = "writing TensorBoard events (report_to: tensorboard)"
        self._event: Any = require("tensorboard.compat.proto.event_pb2", extra="tracking", purpose=purpose)
        self._summary: Any = require("tensorboard.compat.proto.summary_pb2", extra="tracking", purpose=purpose)
        writer: Any = require("tensorboard.summary.writer.record_writer", extra="tracking", purpose=purpose)
        folder = Path(run_dir) / TENSORBOARD_FOLDER
        # TensorBoard orders the files of one run by name; nanoseconds keep two starts within one second apart.
        path = folder / f"events.out.tfevents.{time.time_ns() / 1e9:020.9f}.{os.getpid()}"
        with explain_os_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            self._path = path
            self._file = path.open("wb")
        self._writer = writer.RecordWriter(self._file)
        self._write(self._event.Event(wall_time=time.time(), file_version="brain.Event:2"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One event with all scalars of the step."""
        values = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        summary = self._summary.Summary(value=values)
        self._write(self._event.Event(wall_time=time.time(), step=step, summary=summary))

    def truncate_after(self, step: int) -> None:
        """A session start makes TensorBoard hide older events from the next step on."""
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(self._event.Event(wall_time=time.time(), step=step + 1, session_log=start))

    def close(self) -> None:
        """Close the event file; closing twice does nothing."""
        self._file.close()

    def _write(self, event: Any) -> None:
        with explain_os_errors(self._path):
            self._writer.write(event.SerializeToString())
            self._file.flush()


class WandbSink:
    """A Weights & Biases run. Online, offline or disabled is chosen by its own ``WANDB_MODE``.

    Args:
        run_dir: the run's folder; W&B keeps its files in ``run_dir/wandb``, and the run is called after the folder.
        project: the W&B project.
        config: what to record as the run's configuration.

    Raises:
        UserError: wandb is not installed, or it could not start (for example: not logged in).
    """

    def __init__(self, run_dir: str | Path, project: str, config: Mapping[str, Any] | None = None) -> None:
        self._wandb: Any = require("wandb", extra="tracking", purpose="logging to Weights & Biases (report_to: wandb)")
        run_dir = Path(run_dir)
        settings = {"project": project, "name": run_dir.name, "dir": str(run_dir), "config": dict(config or {})}
        try:
            self._wandb.init(**settings)
        except _wandb_errors(self._wandb) as error:
            raise UserError(
                f"Weights & Biases could not start: {error}",
                hint="run `wandb login` once, or set WANDB_MODE=offline, or leave wandb out of report_to",
            ) from None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand the metrics over under their own names."""
        self._wandb.log(dict(metrics), step=step)

    def truncate_after(self, step: int) -> None:
        """Nothing to do: W&B's history only grows, and a resumed process starts a W&B run of its own."""

    def close(self) -> None:
        """Upload what is left and end the W&B run."""
        self._wandb.finish()


def _wandb_errors(wandb: Any) -> tuple[type[Exception], ...]:
    """What ``wandb.init`` raises when it is not logged in or has no network."""
    errors: tuple[type[Exception], ...] = (OSError,)
    return (*errors, wandb.Error) if hasattr(wandb, "Error") else errors
