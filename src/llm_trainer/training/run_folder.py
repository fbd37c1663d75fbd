"""What a run's folder says before the first step, so that it can be understood, repeated and used from files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import read_json, write_json
from llm_trainer.config import RunConfig, save_config
from llm_trainer.monitoring.system import environment
from llm_trainer.training.callbacks import Callback
from llm_trainer.training.tuning import Tuning

if TYPE_CHECKING:
    from llm_trainer.training.trainer import Trainer

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
DERIVED = "derived.json"
TOKENIZER = "tokenizer"


class RunDescriber(Callback):
    """Describes a run when it starts: after the checkpoint to resume from was accepted, never before.

    Args:
        run_dir: the run's folder.
        run: the whole configuration.
        derived: see :func:`describe_run`.
        tuning: what was measured before the trainer began; the trainer's own when left out.
    """

    def __init__(
        self, run_dir: Path, run: RunConfig, derived: Sequence[Mapping[str, Any]] = (), tuning: Tuning | None = None
    ) -> None:
        self.run_dir = run_dir
        self.run = run
        self.derived = derived
        self.tuning = tuning

    def on_start(self, trainer: Trainer) -> None:
        """Write everything."""
        tuning = self.tuning or trainer.tuning
        describe_run(self.run_dir, self.run, trainer.model, trainer.tokenizer, self.derived, tuning)


def describe_run(
    run_dir: Path,
    run: RunConfig,
    model: nn.Module,
    tokenizer: Any,
    derived: Sequence[Mapping[str, Any]] = (),
    tuning: Tuning | None = None,
) -> None:
    """Write configuration, machine, derived values and tokenizer into a run's folder.

    Args:
        run_dir: the folder; it is made.
        run: the whole configuration.
        model: its parameters are counted.
        tokenizer: saved, unless the folder has it already.
        derived: ``{"key", "value", "reason"}`` of values that were chosen for the person. A resumed run keeps what it
            said first: by then all values are given.
        tuning: what was measured to choose how to compute. A resumed run, which measured nothing, keeps what the
            first one did.
    """
    save_config(run, run_dir / CONFIG)
    write_json(run_dir / ENVIRONMENT, {**environment(), "tuning": _tuning(run_dir / ENVIRONMENT, tuning)})
    if not (run_dir / DERIVED).exists():
        count = sum(parameter.numel() for parameter in model.parameters())
        parameters = {"key": "model.parameters", "value": count, "reason": "counted, tied weights once"}
        write_json(run_dir / DERIVED, [*derived, parameters])
    if not (run_dir / TOKENIZER).is_dir():
        tokenizer.save_pretrained(run_dir / TOKENIZER)


def _tuning(path: Path, tuning: Tuning | None) -> Any:
    """What ``environment.json`` says under ``tuning``."""
    if (tuning is None or not tuning.measured) and path.exists():
        try:
            earlier = read_json(path)
        except UserError:  # it is about to be replaced by a whole one
            earlier = None
        if isinstance(earlier, dict) and earlier.get("tuning"):
            return earlier["tuning"]
    return None if tuning is None else tuning.to_dict()
