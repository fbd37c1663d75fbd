"""The metrics of a run: always into ``metrics.jsonl``, and from there or beside it to whatever the person looks at.

Names, everywhere the same: ``train/loss train/perplexity train/learning_rate train/step train/grad_norm
train/tokens_per_second train/flops_per_second train/mfu train/tokens train/epoch train/skipped_steps system/memory_rss
system/memory_peak system/memory_device validation/loss validation/bits_per_byte``. Losses are nats per token; memory is
bytes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsFloat

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.common.optional import available
from llm_trainer.monitoring.metrics_file import (
    METRICS_FILE,
    MetricsFile,
    MetricsLog,
    read_metrics,
    read_metrics_log,
)
from llm_trainer.monitoring.sinks import Sink, TensorBoardSink, WandbSink

__all__ = [
    "METRICS_FILE",
    "MetricsLog",
    "MetricsLogger",
    "default_sinks",
    "log_metrics",
    "perplexity",
    "read_metrics",
    "read_metrics_log",
]

SINKS = ("tensorboard", "wandb", "jsonl")
WANDB_PROJECT = "custom-llm-training"

_current: MetricsLogger | None = None


def default_sinks() -> tuple[str, ...]:
    """``tensorboard`` if it is installed, beside ``metrics.jsonl``, which is always written."""
    return ("tensorboard",) if available("tensorboard") else ()


def perplexity(loss: float) -> float:
    """``exp(loss)``, infinite where the exponential no longer fits a float."""
    return math.exp(loss) if loss < 700 else math.inf


class MetricsLogger:
    """Logs a run's metrics. The newest open logger is the one that :func:`log_metrics` writes to.

    Args:
        run_dir: the run's folder; it is created.
        report_to: any of ``"tensorboard"`` and ``"wandb"``; left out: :func:`default_sinks`. ``metrics.jsonl`` is
            always written, because the listing and the report are made from it.
        project: the Weights & Biases project.
        config: the run's configuration, for sinks that keep one.

    Raises:
        ConfigError: an unknown sink.
        UserError: a sink that was asked for is not installed or cannot start, or the folder cannot be written.
    """

    def __init__(
        self,
        run_dir: str | Path,
        report_to: Sequence[str] | None = None,
        *,
        project: str = WANDB_PROJECT,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        chosen = default_sinks() if report_to is None else tuple(report_to)
        _check_sinks(chosen)
        self.run_dir = Path(run_dir)
        self._sinks: list[Sink] = [MetricsFile(run_dir)]
        if "tensorboard" in chosen:
            self._sinks.append(TensorBoardSink(run_dir))
        if "wandb" in chosen:
            self._sinks.append(WandbSink(run_dir, project, config))
        self._closed = False
        global _current
        _current = self

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Record the metrics of one step; may be called several times for a step (training, then validation)."""
        # Whole numbers stay whole: a token count above 2**53 would lose digits as a float.
        values = {name: value if isinstance(value, int) else float(value) for name, value in metrics.items()}
        for sink in self._sinks:
            sink.log(step, values)

    def log_metrics(self, loss: SupportsFloat, step: int, learning_rate: SupportsFloat | None = None) -> None:
        """Record loss, perplexity, step and, if given, learning rate.

        Args:
            loss: nats per token; a number or a tensor of one element.
            step: the optimizer step.
            learning_rate: the learning rate of that step.
        """
        metrics: dict[str, float] = {"train/loss": float(loss), "train/perplexity": perplexity(float(loss))}
        if learning_rate is not None:
            metrics["train/learning_rate"] = float(learning_rate)
        metrics["train/step"] = int(step)
        self.log(int(step), metrics)

    def truncate_after(self, step: int) -> None:
        """Forget everything after ``step``, so that a run resumed from there has every step once."""
        for sink in self._sinks:
            sink.truncate_after(step)

    def close(self) -> None:
        """Close all sinks; closing twice does nothing."""
        global _current
        if self._closed:
            return
        self._closed = True
        if _current is self:
            _current = None
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def log_metrics(loss: SupportsFloat, step: int, learning_rate: SupportsFloat | None = None) -> None:
    """:meth:`MetricsLogger.log_metrics` of the run that is being logged now.

    Raises:
        UserError: no :class:`MetricsLogger` is open.
    """
    if _current is None:
        raise UserError(
            "log_metrics: no run is being logged", hint="open one first: logger = MetricsLogger('runs/my_run')"
        )
    _current.log_metrics(loss, step, learning_rate)


def _check_sinks(sinks: Sequence[str]) -> None:
    problems = []
    for name in sinks:
        if name not in SINKS:
            near = difflib.get_close_matches(name, SINKS, n=1)
            problems.append(
                f"report_to: unknown destination {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(SINKS)}")
            )
    if problems:
        raise ConfigError(problems)
