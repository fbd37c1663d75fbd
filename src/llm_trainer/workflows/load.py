"""Find a run and load its model: the newest run, a run by name, or any folder with a model and a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm_trainer.common.devices import resolve_device
from llm_trainer.common.errors import CheckpointError, UserError
from llm_trainer.generation import TextGenerator
from llm_trainer.models import BaseLanguageModel
from llm_trainer.models.factory import load_pretrained
from llm_trainer.monitoring.metrics import read_metrics
from llm_trainer.tokenizer import Tokenizer, load_tokenizer
from llm_trainer.training.checkpoint import (
    checkpoint_name,
    latest_checkpoint,
    list_checkpoints,
    load_averages,
    step_of,
    verify_checkpoint,
)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use."""

    model: BaseLanguageModel
    tokenizer: Tokenizer
    generator: TextGenerator
    description: str
    run_dir: Path | None
    step: int | None


def find_run(run: str | None, runs_dir: Path) -> Path:
    """The folder of a run.

    Args:
        run: a name inside ``runs_dir``, a path, or None for the run that was written to last.
        runs_dir: the folder that holds the runs.

    Raises:
        UserError: there is none; the message lists what there is.
    """
    if run is not None:
        for candidate in (Path(run), runs_dir / run):
            if candidate.is_dir():
                return candidate
        names = sorted(path.name for path in runs_dir.glob("*") if (path / "config.yaml").exists())
        there = f"there are: {', '.join(names[:10])}" if names else f"there is no run in {runs_dir}/ yet"
        raise UserError(f"there is no run or folder {run!r}", hint=there)
    found = [path for path in runs_dir.glob("*") if list_checkpoints(path / "checkpoints")]
    if not found:
        raise UserError(f"there is no trained model in {runs_dir}/ yet", hint="train one first: llm-trainer quickstart")
    return max(found, key=lambda path: (path / "checkpoints").stat().st_mtime)


def load_model(
    run: str | None = None, *, runs_dir: Path = Path("runs"), checkpoint: str = "best", device: str = "auto"
) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        run: see :func:`find_run`; also a folder in the layout of transformers.
        runs_dir: the folder that holds the runs.
        checkpoint: ``best`` (lowest validation loss), ``last``, or a step.
        device: where to put the model.
    """
    folder = find_run(run, runs_dir)
    target = resolve_device(device)
    if (folder / "checkpoints").is_dir():
        path = choose_checkpoint(folder, checkpoint)
        model: BaseLanguageModel = load_pretrained(path)
        averages = load_averages(path)
        if averages:
            model.load_state_dict(averages, strict=False)
        tokenizer_dir, step = folder / "tokenizer", int(path.name.removeprefix("step-"))
        where = f"{folder.name}, step {step:,}"
    elif (folder / "config.json").exists():
        model = load_pretrained(folder)
        tokenizer_dir, step, where = folder, None, folder.name
    else:
        raise UserError(f"{folder} holds neither a run nor a model", hint="name a run, or a folder with config.json")
    model.to(target).eval()
    tokenizer = load_tokenizer(tokenizer_dir)
    description = f"{where}: {model.num_parameters() / 1e6:.1f}M parameters, {tokenizer.vocab_size:,} tokens"
    run_dir = folder if step is not None else None
    return LoadedModel(model, tokenizer, TextGenerator(model, tokenizer), description, run_dir, step)


def choose_checkpoint(run_dir: Path, which: str) -> Path:
    """The folder of a checkpoint: ``best``, ``last`` or a step.

    Raises:
        CheckpointError: there is no such checkpoint; the message lists what there is.
    """
    directory = run_dir / "checkpoints"
    there = list_checkpoints(directory)
    if not there:
        raise CheckpointError(f"{run_dir} has no checkpoint yet", hint="wait for the first one, or train longer")
    if which not in ("best", "last"):
        path = directory / checkpoint_name(int(which)) if which.isdigit() else None
        if path not in there:
            steps = ", ".join(str(int(item.name.removeprefix("step-"))) for item in there)
            raise CheckpointError(f"{run_dir} has no checkpoint {which!r}", hint=f"use best, last or a step: {steps}")
        verify_checkpoint(path)
        return path
    if which == "best":
        losses = {
            record["step"]: record["validation/loss"]
            for record in read_metrics(run_dir)
            if record.get("validation/loss") is not None  # it is null where it was not finite
        }
        scored = [path for path in there if step_of(path) in losses]
        if scored:
            best = min(scored, key=lambda path: losses[step_of(path)])
            verify_checkpoint(best)
            return best
    damage: list[str] = []
    newest = latest_checkpoint(directory, on_damage=damage.append)
    if newest is None:
        raise CheckpointError("no checkpoint is whole:\n" + "\n".join(f"  - {text}" for text in damage))
    return newest
