"""Checkpoints: whole or absent, verified before use, never unpickled.

A checkpoint is a folder ``step-000762/`` of safetensors and JSON. It is written under another name, its manifest
(every file with size and hash) comes last, everything is flushed to the disk, and only then is the folder renamed. So
a process killed at any instant leaves either a good checkpoint or a folder that nothing looks at. Loading verifies the
manifest; a damaged newest checkpoint is reported and the newest good one is used.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from llm_trainer.common.errors import CheckpointError, CorruptionError, UserError
from llm_trainer.common.files import (
    explain_os_errors,
    fsync_dir,
    fsync_file,
    read_json,
    require_free_space,
    write_json,
)
from llm_trainer.common.hashing import hash_file
from llm_trainer.models import BaseLanguageModel
from llm_trainer.models.extensions import write_model_config
from llm_trainer.models.weights import save_weights
from llm_trainer.training.optimizer import optimizers_of

FORMAT = 1
NAME = re.compile(r"step-(\d+)")
MANIFEST = "manifest.json"
STATE = "state.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
AVERAGES = "ema.safetensors"


@dataclass
class LoadedCheckpoint:
    """What a checkpoint says besides the weights, which are already in the model."""

    path: Path
    step: int
    state: dict[str, Any]
    averages: dict[str, Tensor] = field(default_factory=dict)


def checkpoint_name(step: int) -> str:
    """``762`` -> ``"step-000762"``."""
    return f"step-{step:06d}"


def save_checkpoint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    step: int,
    *,
    directory: str | Path = "checkpoints",
    state: Mapping[str, Any] | None = None,
    averages: Mapping[str, Tensor] | None = None,
) -> Path:
    """Save everything a run needs to go on as if nothing had happened.

    Args:
        model: its whole state is saved; tied weights once.
        optimizer: its state, by parameter name; None saves weights only.
        step: optimizer updates done.
        directory: the folder that holds the checkpoints.
        state: JSON-like values to be given back by :func:`load_checkpoint`.
        averages: EMA weights by parameter name.

    Returns:
        The folder of the checkpoint.

    Raises:
        UserError: no space or no permission; earlier checkpoints are untouched.
    """
    directory = Path(directory)
    weights, aliases = _model_tensors(model)
    optimizer_tensors, optimizer_values = _optimizer_tensors(model, optimizer)
    files = {MODEL: weights, OPTIMIZER: optimizer_tensors, AVERAGES: dict(averages or {})}
    needed = sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
    require_free_space(directory, int(needed * 1.02) + (1 << 20), purpose=f"the checkpoint of step {step}")
    target = directory / checkpoint_name(step)
    temporary = directory / f".{checkpoint_name(step)}.{os.getpid()}.tmp"
    with explain_os_errors(temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    try:
        for name, tensors in files.items():
            if tensors:
                save_weights(temporary / name, tensors)
        if isinstance(model, BaseLanguageModel):
            write_model_config(temporary, model.config)
        details = {"format": FORMAT, "step": step, "time": time.time(), "aliases": aliases}
        kinds = {"optimizers": _kinds(optimizer), "optimizer": optimizer_values}
        write_json(temporary / STATE, {**details, **kinds, "state": dict(state or {})})
        _commit(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def load_checkpoint(
    path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> LoadedCheckpoint:
    """Put a checkpoint's weights into ``model`` and its moments into ``optimizer``.

    Raises:
        CorruptionError: the files are not the ones that were saved.
        CheckpointError: it is a checkpoint of another model or optimizer; the message names the first difference.
    """
    path = Path(path)
    verify_checkpoint(path)
    saved = read_json(path / STATE)
    weights = load_file(path / MODEL)
    for alias, name in saved["aliases"].items():
        weights[alias] = weights[name]
    _check_weights(path, model, weights)
    model.load_state_dict(weights)
    if optimizer is not None:
        _check_optimizer(path, saved["optimizers"], optimizer)
        _restore_optimizer(path, model, optimizer, saved["optimizer"])
    return LoadedCheckpoint(path, saved["step"], saved["state"], load_averages(path))


def load_averages(path: str | Path) -> dict[str, Tensor]:
    """The EMA weights of a checkpoint by parameter name; empty if the run kept none."""
    file = Path(path) / AVERAGES
    return load_file(file) if file.exists() else {}


def verify_checkpoint(path: str | Path) -> None:
    """Check a checkpoint against its manifest: every file, its size and its hash.

    Raises:
        CorruptionError: naming the file that differs.
    """
    path = Path(path)
    try:
        manifest = read_json(path / MANIFEST)
        files = dict(manifest["files"])
    except UserError as error:
        raise CorruptionError(f"checkpoint {path} has no readable manifest: {error.message}") from None
    except (KeyError, TypeError, ValueError):
        raise CorruptionError(f"checkpoint {path}: {MANIFEST} is not a checkpoint manifest") from None
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise CorruptionError(f"checkpoint {path}: {name} is missing")
        if file.stat().st_size != expected["size"]:
            size = file.stat().st_size
            raise CorruptionError(f"checkpoint {path}: {name} has {size} bytes instead of {expected['size']}")
        if hash_file(file) != expected["hash"]:
            raise CorruptionError(f"checkpoint {path}: the content of {name} has changed since it was saved")


def list_checkpoints(directory: str | Path) -> list[Path]:
    """The committed checkpoints of a folder, oldest first. Only names are looked at."""
    found = [path for path in Path(directory).glob("step-*") if NAME.fullmatch(path.name)]
    return sorted((path for path in found if (path / MANIFEST).is_file()), key=step_of)


def step_of(path: Path) -> int:
    """The step of a checkpoint's folder; by number, because the names stop sorting after 999,999."""
    return int(path.name.removeprefix("step-"))


def latest_checkpoint(directory: str | Path, *, on_damage: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole, or None.

    Args:
        directory: the folder that holds the checkpoints.
        on_damage: called with one sentence for each damaged checkpoint that is passed over.
    """
    for path in reversed(list_checkpoints(directory)):
        try:
            verify_checkpoint(path)
        except CorruptionError as error:
            on_damage(f"{error.message}; falling back to the one before it")
            continue
        return path
    return None


def remove_old_checkpoints(directory: str | Path, *, newest: int, keep_last: int, keep: set[int]) -> list[Path]:
    """Delete all but ``keep_last`` checkpoints up to step ``newest`` and those of the steps in ``keep``.

    Later ones than ``newest`` are damaged ones that a resumed run has passed over; they go too.
    """
    there = list_checkpoints(directory)
    recent = [path for path in there if step_of(path) <= newest][-keep_last:]
    removed = []
    for path in there:
        if path not in recent and step_of(path) not in keep:
            # Without its manifest it is no checkpoint any more, even if the process dies half way through.
            (path / MANIFEST).unlink()
            shutil.rmtree(path)
            removed.append(path)
    return removed


def remove_leftovers(directory: str | Path) -> None:
    """Delete what an interrupted save or removal left behind."""
    directory = Path(directory)
    uncommitted = [path for path in directory.glob("step-*") if path.is_dir() and not (path / MANIFEST).is_file()]
    for path in [*directory.glob(".step-*.tmp"), *uncommitted]:
        shutil.rmtree(path)


def _commit(temporary: Path, target: Path) -> None:
    """Manifest last, everything flushed, then one rename."""
    with explain_os_errors(target):
        files = sorted(path for path in temporary.iterdir() if path.is_file())
        for path in files:
            fsync_file(path)
        manifest = {path.name: {"size": path.stat().st_size, "hash": hash_file(path)} for path in files}
        write_json(temporary / MANIFEST, {"format": FORMAT, "files": manifest})
        fsync_dir(temporary)
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
        fsync_dir(target.parent)


def _model_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The model's state with shared tensors once, and ``{name left out: name kept}``."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    owner: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        if key in owner and tensor.numel():
            aliases[name] = owner[key]
        else:
            owner[key] = name
            tensors[name] = tensor
    return tensors, aliases


def _optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as ``"<parameter>|<key>"``: tensors, and plain values apart."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    if optimizer is None:
        return tensors, values
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for part in optimizers_of(optimizer):
        for parameter, entries in part.state.items():
            for key, value in entries.items():
                full = f"{names[id(parameter)]}|{key}"
                if isinstance(value, Tensor):
                    tensors[full] = value
                else:
                    values[full] = value
    return tensors, values


def _restore_optimizer(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, values: Mapping[str, Any]
) -> None:
    tensors = load_file(path / OPTIMIZER) if (path / OPTIMIZER).exists() else {}
    parameters = dict(model.named_parameters())
    owner = {id(p): part for part in optimizers_of(optimizer) for g in part.param_groups for p in g["params"]}
    restored: dict[str, dict[str, Any]] = {}
    for full, value in {**tensors, **values}.items():
        name, _, key = full.rpartition("|")
        restored.setdefault(name, {})[key] = value
    for name, entries in restored.items():
        parameter = parameters.get(name)
        if parameter is None or id(parameter) not in owner:
            raise CheckpointError(f"checkpoint {path} has optimizer state for {name}, which this run does not train")
        # torch's fused optimizers keep their step count as a tensor on the parameter's device.
        owner[id(parameter)].state[parameter] = {
            key: value.to(parameter.device) if isinstance(value, Tensor) else value for key, value in entries.items()
        }


def _kinds(optimizer: torch.optim.Optimizer | None) -> list[str]:
    return [] if optimizer is None else [type(part).__name__ for part in optimizers_of(optimizer)]


def _check_optimizer(path: Path, saved: list[str], optimizer: torch.optim.Optimizer) -> None:
    if saved != _kinds(optimizer):
        raise CheckpointError(
            f"checkpoint {path} was trained with {' and '.join(saved) or 'no optimizer'}; "
            f"this run uses {' and '.join(_kinds(optimizer))}",
            hint="resume with training.optimizer as in the run's config.yaml, or start a new run",
        )


def _check_weights(path: Path, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Say in one sentence how the checkpoint's model differs from this one, if it does."""
    expected = model.state_dict()
    missing, unexpected = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unexpected:
        parts = [f"lacks {missing[0]}" if missing else "", f"has {unexpected[0]} besides" if unexpected else ""]
        raise CheckpointError(
            f"checkpoint {path} is of another model: it {' and '.join(part for part in parts if part)}",
            hint="resume with the configuration of the run, which is saved in its config.yaml",
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"checkpoint {path} is of another model: {name} is {list(tensor.shape)} there "
                f"and {list(expected[name].shape)} here",
                hint="resume with the configuration of the run, which is saved in its config.yaml",
            )
