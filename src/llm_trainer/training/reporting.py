"""Keeps a run's folder and the person up to date: metrics, heartbeat, live line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llm_trainer.common.devices import matmul_peak, world_size
from llm_trainer.config import TrainingConfig
from llm_trainer.models import BaseLanguageModel
from llm_trainer.monitoring.metrics import MetricsLogger, read_metrics
from llm_trainer.monitoring.progress import ProgressDisplay
from llm_trainer.monitoring.status import RunStatus
from llm_trainer.monitoring.system import device_memory, memory_peak, memory_rss
from llm_trainer.training.callbacks import Callback

if TYPE_CHECKING:
    from llm_trainer.training.trainer import Trainer


class RunReporter(Callback):
    """Writes ``metrics.jsonl`` (and TensorBoard, W&B), ``status.json``, and shows progress.

    Args:
        run_dir: the run's folder; None only shows progress.
        config: says where else to report.
        quiet: show nothing.
    """

    def __init__(self, run_dir: Path | None, config: TrainingConfig, *, quiet: bool = False) -> None:
        self.run_dir = run_dir
        self._config = config
        self._quiet = quiet
        self._metrics: MetricsLogger | None = None
        self._status: RunStatus | None = None
        self._progress: ProgressDisplay | None = None
        self._validated: set[int] = set()
        self._flops_per_token = 0.0
        self._peak_flops = 0.0

    def on_start(self, trainer: Trainer) -> None:
        """Open everything; forget metrics after the step that is resumed from."""
        state = trainer.state
        if self.run_dir is not None:
            # First of all: it refuses a folder that another process is training in.
            self._status = RunStatus(self.run_dir)
            self._status.step = state.step
            self._status.start()
            self._metrics = MetricsLogger(
                self.run_dir,
                self._config.report_to,
                project=self._config.wandb_project,
                config=self._config.to_dict(),
            )
            self._metrics.truncate_after(state.step)
            records = read_metrics(self.run_dir)
            self._validated = {record["step"] for record in records if "validation/loss" in record}
        self._progress = ProgressDisplay(state.total_steps, enabled=not self._quiet, first_step=state.step)
        if isinstance(trainer.model, BaseLanguageModel):
            self._flops_per_token = trainer.model.flops_per_token(trainer.sequence_length)
            self._peak_flops = matmul_peak(trainer.device, trainer.precision.dtype) * world_size()

    def on_step(self, trainer: Trainer) -> None:
        """Keep the live line and the heartbeat current."""
        state = trainer.state
        if self._status is not None:
            self._status.step = state.step
        if self._progress is not None:
            self._progress.set_total(state.total_steps)

    def on_log(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """One line of metrics."""
        speed = metrics["train/tokens_per_second"]
        metrics = {**metrics, "train/step": float(trainer.state.step), **_memory(trainer)}
        if self._peak_flops:
            metrics["train/flops_per_second"] = speed * self._flops_per_token
            metrics["train/mfu"] = metrics["train/flops_per_second"] / self._peak_flops
        if self._metrics is not None:
            self._metrics.log(trainer.state.step, metrics)
        if self._progress is not None:
            self._progress.update(
                trainer.state.step, metrics["train/loss"], speed, eta_seconds=trainer.seconds_left(speed)
            )

    def on_evaluate(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """One line of validation metrics."""
        # A resumed run repeats the validation of its checkpoint's step, which may have been logged before.
        if self._metrics is not None and trainer.state.step not in self._validated:
            self._metrics.log(trainer.state.step, metrics)
        if self._progress is not None:
            bits = metrics.get("validation/bits_per_byte")
            text = f"validation loss {metrics['validation/loss']:.4f}"
            self._progress.message(text + (f", {bits:.4f} bits per byte" if bits is not None else ""))

    def on_message(self, trainer: Trainer, text: str) -> None:
        """Something that the person should know."""
        if self._progress is not None:
            self._progress.message(text)
        elif not self._quiet:
            print(text, flush=True)

    def on_end(self, trainer: Trainer, outcome: str, message: str) -> None:
        """Close everything and write how it ended."""
        if self._progress is not None:
            self._progress.close()
        if self._metrics is not None:
            self._metrics.close()
        if self._status is not None:
            self._status.finish(outcome, message)


def _memory(trainer: Trainer) -> dict[str, float]:
    values = {"system/memory_rss": float(memory_rss()), "system/memory_peak": float(memory_peak())}
    device = device_memory()
    if device:
        values["system/memory_device"] = float(device)
    return values
