"""Deleting runs and checkpoints: asked for by name, confirmed, never a running one, never through a link."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import explain_os_errors, fsync_dir, human_bytes
from llm_trainer.monitoring.runs import folder_size, is_run, list_checkpoints, no_such_run
from llm_trainer.monitoring.status import read_status

Confirm = Callable[[str], bool]


def delete_run(root: str | Path, name: str, *, confirm: Confirm) -> int:
    """Delete a run with everything in it.

    Args:
        root: the folder that holds the runs; nothing outside it can be deleted.
        name: the run's name, which is a folder directly in ``root``.
        confirm: gets one sentence that says what will be lost; only ``True`` deletes.

    Returns:
        Bytes freed; 0 if it was not confirmed.

    Raises:
        UserError: no such run, a name that leads elsewhere, a link, or a run that is running.
    """
    if Path(name).name != name or name in ("", ".", ".."):
        raise UserError(f"{name!r} is not the name of a run", hint="give the name as `llm-trainer runs list` shows it")
    path = Path(root) / name
    _refuse_link(path)
    if not is_run(path):
        raise no_such_run(root, name)
    _refuse_running(path)
    size, count = folder_size(path), len(list_checkpoints(path))
    checkpoints = "1 checkpoint" if count == 1 else f"{count} checkpoints"
    if not confirm(f"Delete the run {name} with {checkpoints} ({human_bytes(size)})? This cannot be undone."):
        return 0
    _remove(path)
    return size


def delete_checkpoint(run_dir: str | Path, step: int, *, confirm: Confirm) -> int:
    """Delete one checkpoint of a run.

    Args:
        run_dir: the run's folder.
        step: the checkpoint's step.
        confirm: as in :func:`delete_run`.

    Returns:
        Bytes freed; 0 if it was not confirmed.

    Raises:
        UserError: no such checkpoint, a link, or a run that is running.
    """
    run_dir = Path(run_dir)
    checkpoints = list_checkpoints(run_dir)
    chosen = next((checkpoint for checkpoint in checkpoints if checkpoint.step == step), None)
    if chosen is None:
        steps = ", ".join(str(checkpoint.step) for checkpoint in checkpoints) or "none"
        raise UserError(f"{run_dir} has no checkpoint of step {step}", hint=f"there are: {steps}")
    for path in (run_dir, chosen.path.parent, chosen.path):
        _refuse_link(path)
    _refuse_running(run_dir)
    last = " It is the only one: the run cannot be continued or used without it." if len(checkpoints) == 1 else ""
    if not confirm(f"Delete {chosen.label} ({human_bytes(chosen.size)})?{last} This cannot be undone."):
        return 0
    with explain_os_errors(chosen.path):
        # Without its manifest it is no checkpoint any more, even if this process dies half way through.
        (chosen.path / "manifest.json").unlink()
        fsync_dir(chosen.path)
    _remove(chosen.path)
    return chosen.size


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise UserError(f"{path} is a link to {path.readlink()}", hint="delete the link itself by hand")


def _refuse_running(path: Path) -> None:
    status = read_status(path)
    if status.state == "running":
        raise UserError(
            f"{path.name} is running (process {status.pid})", hint="stop it first with Ctrl-C or `kill`; it will save"
        )


def _remove(path: Path) -> None:
    with explain_os_errors(path):
        shutil.rmtree(path)  # links inside are removed, not followed
