"""Runs and their checkpoints as lists: made from small files only, so that a hundred large runs list in an instant."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import read_json
from llm_trainer.monitoring.metrics_file import (
    METRICS_FILE,
    Record,
    is_number,
    last_value,
    read_metrics_log,
    read_recent_metrics,
)
from llm_trainer.monitoring.naming import checkpoint_label, next_run_name, validate_run_name
from llm_trainer.monitoring.status import STATUS_FILE, read_status

__all__ = [
    "CheckpointInfo",
    "RunInfo",
    "export_log",
    "find_run",
    "is_run",
    "list_checkpoints",
    "list_runs",
    "next_run_name",
    "no_such_run",
    "parameter_count",
    "run_info",
    "validate_run_name",
]

CONFIG_FILE = "config.yaml"
CHECKPOINTS_FOLDER = "checkpoints"
# A safetensors header of more than this is no header (the format's own limit is 100 MB).
_LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class CheckpointInfo:
    """One committed checkpoint.

    Attributes:
        path: its folder.
        label: such as ``415M_FineWeb_512_checkpoint_762_run_1``.
        step: optimizer updates done.
        loss: training loss there, nats per token, if it is known.
        time: unix seconds when it was saved.
        size: bytes.
    """

    path: Path
    label: str
    step: int
    loss: float | None
    time: float
    size: int

    @property
    def line(self) -> str:
        """``Step: 762 | Loss: 5.3716 | Time: 2025-08-29 02:36``."""
        loss = "unknown" if self.loss is None else f"{self.loss:.4f}"
        return f"Step: {self.step} | Loss: {loss} | Time: {datetime.fromtimestamp(self.time):%Y-%m-%d %H:%M}"


@dataclass(frozen=True)
class RunInfo:
    """One run, for a listing.

    Attributes:
        name: the folder's name.
        path: the folder.
        state: as in :class:`llm_trainer.monitoring.status.StatusView`.
        step: last step that is known.
        loss: newest training loss, nats per token.
        bits_per_byte: held-out bits per byte of the evaluation, or the newest validation.
        parameters: of the model, if it can be known.
        time: unix seconds of the last sign of life.
        size: bytes of the whole folder.
        checkpoints: how many are committed.
        message: why it ended, if it said so.
    """

    name: str
    path: Path
    state: str
    step: int | None
    loss: float | None
    bits_per_byte: float | None
    parameters: int | None
    time: float
    size: int
    checkpoints: int
    message: str


def is_run(path: str | Path) -> bool:
    """Whether a folder holds a run. One whose deletion was cut short still does, so that it can be deleted again."""
    path = Path(path)
    return any((path / name).exists() for name in (CONFIG_FILE, STATUS_FILE, METRICS_FILE, CHECKPOINTS_FOLDER))


def list_runs(root: str | Path) -> list[RunInfo]:
    """All runs in a folder, the newest first; a folder that does not exist has none."""
    folder = Path(root)
    if not folder.is_dir():
        return []
    runs = [run_info(entry) for entry in folder.iterdir() if not entry.name.startswith(".") and is_run(entry)]
    return sorted(runs, key=lambda run: (-run.time, run.name))


def find_run(root: str | Path, name: str) -> Path:
    """The folder of the run called ``name`` under ``root``, or ``name`` itself if that is a run's folder.

    Raises:
        UserError: there is no such run; the nearest name is given.
    """
    for candidate in (Path(root) / name, Path(name)):
        if is_run(candidate):
            return candidate
    raise no_such_run(root, name)


def no_such_run(root: str | Path, name: str) -> UserError:
    """The error for a run that is not there, with the nearest name that is."""
    folder = Path(root)
    names = sorted(entry.name for entry in folder.iterdir() if is_run(entry)) if folder.is_dir() else []
    near = difflib.get_close_matches(name, names, n=1)
    return UserError(
        f"there is no run {name!r} in {root}",
        hint=f"did you mean {near[0]!r}?" if near else "`llm-trainer runs list` shows what there is",
    )


def run_info(run_dir: str | Path) -> RunInfo:
    """What a listing shows of one run; files that are missing or damaged only leave their value out."""
    path = Path(run_dir)
    status = read_status(path)
    recent = read_recent_metrics(path)
    checkpoints = _checkpoint_folders(path)
    steps = [status.step, *(record["step"] for record in recent), *(step for step, _ in checkpoints)]
    times = [status.time, *(record.get("time") for record in recent[-1:])]
    return RunInfo(
        name=path.resolve().name,
        path=path,
        state=status.state,
        step=max((step for step in steps if isinstance(step, int)), default=None),
        loss=last_value(recent, "train/loss"),
        bits_per_byte=held_out(path).get("bits_per_byte") or last_value(recent, "validation/bits_per_byte"),
        parameters=parameter_count(path),
        time=max((time for time in times if time is not None and is_number(time)), default=path.stat().st_mtime),
        size=folder_size(path),
        checkpoints=len(checkpoints),
        message=status.message,
    )


def list_checkpoints(run_dir: str | Path) -> list[CheckpointInfo]:
    """The committed checkpoints of a run, oldest first. Only ``state.json`` of each is read."""
    path = Path(run_dir)
    infos: list[CheckpointInfo] = []
    losses: list[tuple[int, float]] | None = None
    for step, folder in _checkpoint_folders(path):
        state = load_json_object(folder / "state.json")
        inner = state.get("state")
        loss = inner.get("loss", state.get("loss")) if isinstance(inner, dict) else state.get("loss")
        if not is_number(loss):
            losses = read_metrics_log(path).series("train/loss") if losses is None else losses
            loss = next((value for at, value in reversed(losses) if at <= step), None)
        time = state.get("time")
        infos.append(
            CheckpointInfo(
                path=folder,
                label=checkpoint_label(path.resolve().name, step),
                step=step,
                loss=None if loss is None else float(loss),
                time=float(time) if time is not None and is_number(time) else folder.stat().st_mtime,
                size=folder_size(folder),
            )
        )
    return infos


def export_log(run_dir: str | Path) -> dict[str, Any]:
    """The run's whole log as one JSON document, each step once: ``{"run", "state", "message", "steps": [...]}``."""
    path = Path(run_dir)
    status = read_status(path)
    log = read_metrics_log(path)
    return {
        "run": path.resolve().name,
        "state": status.state,
        "message": status.message,
        "parameters": parameter_count(path),
        "damaged_lines": log.damaged_lines,
        "steps": log.by_step(),
    }


def parameter_count(run_dir: str | Path) -> int | None:
    """The model's parameters: what the run derived, else the shapes in the newest checkpoint's header."""
    path = Path(run_dir)
    for entry in load_json_list(path / "derived.json"):
        if entry.get("key") == "model.parameters" and str(entry.get("value")).isascii():
            digits = str(entry["value"]).replace(",", "")
            return int(digits) if digits.isdigit() else None
    checkpoints = _checkpoint_folders(path)
    return _count_in_header(checkpoints[-1][1] / "model.safetensors") if checkpoints else None


def held_out(run_dir: str | Path) -> dict[str, Any]:
    """The held-out figures of ``evaluation.json``; empty if it has not been evaluated."""
    figures = load_json_object(Path(run_dir) / "evaluation.json").get("held_out")
    return figures if isinstance(figures, dict) else {}


def load_json_object(path: Path) -> dict[str, Any]:
    """A JSON object of a run's folder; empty if the file is missing or damaged, as in a run that died."""
    try:
        value = read_json(path)
    except UserError:
        return {}
    return value if isinstance(value, dict) else {}


def load_json_list(path: Path) -> list[Record]:
    """A JSON list of objects of a run's folder; empty if the file is missing or damaged."""
    try:
        value = read_json(path)
    except UserError:
        return []
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def folder_size(path: str | Path) -> int:
    """Bytes of all files below ``path``; links are not followed, files that vanish meanwhile do not count."""
    total = 0
    pending = [str(path)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:  # a running trainer removes old checkpoints
            continue
    return total


def _checkpoint_folders(run_dir: Path) -> list[tuple[int, Path]]:
    """``(step, folder)`` of the checkpoints that have a manifest, which is written last."""
    found = []
    for folder in (run_dir / CHECKPOINTS_FOLDER).glob("step-*"):
        match = re.fullmatch(r"step-(\d+)", folder.name)
        if match and (folder / "manifest.json").is_file():
            found.append((int(match[1]), folder))
    return sorted(found)


def _count_in_header(path: Path) -> int | None:
    """Elements of all tensors of a safetensors file, from its header: 8 bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < _LARGEST_HEADER else {}
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(shape) for shape in shapes) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
