"""Loss against time: where a run was after how many seconds of training, with everything else off the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from common import Stamp, now
from torch import Tensor

from llm_trainer.common.optional import require
from llm_trainer.training import Callback, Trainer


@dataclass(frozen=True)
class Point:
    """One evaluation of a run."""

    step: int
    wall: float
    """Seconds of training until then."""
    cpu: float
    """Processor seconds of training until then."""
    loss: float
    """Of the held-out text, in whatever unit the benchmark says."""

    def to_dict(self) -> dict[str, float]:
        """For the JSON line."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def first_at_or_below(points: Iterable[Point], loss: float) -> Point | None:
    """The first evaluation that reached a loss. Nothing is interpolated: it was reached then, or a little before."""
    return next((point for point in sorted(points, key=lambda point: point.step) if point.loss <= loss), None)


class Snapshots(Callback):
    """Saves the model now and then, with the clock stopped; the loss of the saved models is measured afterwards.

    The clock runs from :meth:`begin`, which is called before ``fit``, so set-up, probes and compilation count.

    Args:
        folder: gets one folder per snapshot.
        steps: steps between snapshots, or None.
        seconds: seconds of training between snapshots, or None.
    """

    def __init__(self, folder: Path, *, steps: int | None = None, seconds: float | None = None) -> None:
        self.moments: list[dict[str, float]] = []
        self.chosen: dict[str, Any] = {}
        self._folder, self._steps, self._seconds = folder, steps, seconds
        self._paused = Stamp(0.0, 0.0)
        self._due = seconds or 0.0

    def begin(self) -> None:
        """Start the clock."""
        self._start = now()

    def on_start(self, trainer: Trainer) -> None:
        """Remember what the product chose."""
        self.chosen["precision"] = trainer.precision.format

    def on_step(self, trainer: Trainer) -> None:
        """Save if it is time."""
        reached = now()
        by_steps = self._steps is not None and trainer.state.step % self._steps == 0
        by_clock = self._seconds is not None and self._elapsed(reached).wall >= self._due
        if by_steps or by_clock:
            self._save(trainer, reached)
            self._due = self._elapsed(reached).wall + (self._seconds or 0.0)

    def on_end(self, trainer: Trainer, outcome: str, message: str) -> None:
        """The end is always saved."""
        if outcome == "failed":
            return
        if not self.moments or self.moments[-1]["step"] != trainer.state.step:
            self._save(trainer, now())

    def _elapsed(self, moment: Stamp) -> Stamp:
        wall, cpu = (then - first - paused for then, first, paused in zip(moment, self._start, self._paused))
        return Stamp(wall, cpu)

    def _save(self, trainer: Trainer, reached: Stamp) -> None:
        elapsed = self._elapsed(reached)
        step = trainer.state.step
        trainer.save_model(snapshot(self._folder, step))  # with EMA, the averaged weights
        self.moments.append({"step": step, "wall": elapsed.wall, "cpu": elapsed.cpu})
        wall, cpu = (paused + then - first for paused, then, first in zip(self._paused, now(), reached))
        self._paused = Stamp(wall, cpu)


def snapshot(folder: Path, step: int) -> Path:
    """Where the snapshot of a step lies."""
    return folder / f"step-{step:06d}"


Logits: TypeAlias = Callable[[Tensor], Tensor]
"""A model as the evaluation sees it: ids (batch, seq) -> logits (batch, seq, vocab)."""


@torch.no_grad()
def windows_loss(logits: Logits, ids: Tensor, length: int, *, batch: int = 128) -> float:
    """Mean loss in nats over all of ``ids``, read in windows that do not overlap.

    Every token but the first, and fewer than ``length`` at the end, is predicted exactly once, from the tokens of its
    window only.

    Args:
        logits: the model, evaluating.
        ids: (tokens,).
        length: tokens of a window.
        batch: windows at once.
    """
    count = (len(ids) - 1) // length
    inputs, targets = ids[: count * length].view(count, length), ids[1 : count * length + 1].view(count, length)
    total = 0.0
    for rows, answers in zip(torch.split(inputs, batch), torch.split(targets, batch), strict=True):
        scores = logits(rows).float()  # (batch, length, vocab)
        total += float(F.cross_entropy(scores.flatten(0, 1), answers.flatten(), reduction="sum"))
    return total / (count * length)


def draw(path: Path, panels: Sequence[tuple[str, str, dict[str, list[list[Point]]]]]) -> None:
    """A picture: loss against seconds of training.

    Args:
        path: the PNG file.
        panels: title, unit of the loss, and the runs of each contestant by name.
    """
    module: Any = require("matplotlib.figure", extra="plots", purpose="--plot")
    figure = module.Figure(figsize=(6.5 * len(panels), 4.5), dpi=150, layout="constrained")
    for axes, (title, unit, contestants) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for index, (name, runs) in enumerate(contestants.items()):
            for number, points in enumerate(runs):
                walls, losses = [point.wall for point in points], [point.loss for point in points]
                label = name if number == 0 else None
                axes.plot(walls, losses, color=f"C{index}", label=label, marker=".", linewidth=1.2, alpha=0.8)
        axes.set(title=title, xlabel="seconds of training", ylabel=unit)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, format="png")
