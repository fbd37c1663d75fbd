"""Hooks into the loop. A callback owns its own state; the loop knows nothing of what callbacks do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_trainer.training.trainer import Trainer


class Callback:
    """Override what you need. Only rank 0 calls callbacks."""

    def on_start(self, trainer: Trainer) -> None:
        """Everything is set up and, when resuming, restored; no step has been made."""

    def on_step(self, trainer: Trainer) -> None:
        """A step is done."""

    def on_log(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Training metrics of the last ``logging_steps`` steps."""

    def on_evaluate(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """A validation is done; the model has the weights that were validated."""

    def on_save(self, trainer: Trainer, checkpoint: Path) -> None:
        """A checkpoint has been committed."""

    def on_message(self, trainer: Trainer, text: str) -> None:
        """Something that the person should know."""

    def on_end(self, trainer: Trainer, outcome: str, message: str) -> None:
        """The loop has ended: ``finished``, ``interrupted`` or ``failed``."""
