"""Weights in files: safetensors only, because a pickle from a stranger can run code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llm_trainer.common.errors import CheckpointError, CorruptionError, UserError
from llm_trainer.common.files import (
    explain_os_errors,
    fsync_dir,
    fsync_file,
    read_json,
    require_free_space,
    write_bytes,
)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
MOST_NAMES = 5
"""Names in a message about weights that do not fit; a whole model's would bury it."""


def save_weights(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, atomically.

    Raises:
        UserError: no space or no permission; the old file, if any, is untouched.
    """
    path = Path(path)
    require_free_space(path.parent, sum(tensor.nbytes for tensor in tensors.values()) + (1 << 20), purpose=str(path))
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # The library streams the tensors into a file that it renames, but that only its owner may read: the name and the
    # permissions come from an ordinary atomic write, so that nobody ever sees a folder with half a model.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_bytes(temporary, b"")
        mode = temporary.stat().st_mode
        with explain_os_errors(path):
            save_file(plain, temporary, metadata={"format": "pt"})
            temporary.chmod(mode)
            fsync_file(temporary)
            temporary.replace(path)
            fsync_dir(path.parent)
    except SafetensorError as error:
        # It wraps the operating system's error in text.
        if "os error 28" in str(error):
            raise UserError(
                f"the disk is full: could not write {path}", hint="free some space; the old file is intact"
            ) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def load_weights(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a model folder: ``model.safetensors``, or the shards that its index names.

    Raises:
        CheckpointError: there are no weights here, a shard is missing, or the weights are pickled.
        CorruptionError: a file is not whole, or the index makes no sense.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return load_tensors(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{folder} holds no weights ({WEIGHTS} or {INDEX})", hint=_hint_for(folder))
    index = _weight_map(folder / INDEX)
    shards = sorted(set(index.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(shards)} weight files are missing: {_some(missing)}",
            hint="download or copy the folder again",
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors.update(load_tensors(folder / shard))
    absent = sorted(set(index) - set(tensors))
    if absent:
        raise CorruptionError(f"{folder}: {INDEX} names tensors that no file holds: {_some(absent)}")
    return tensors


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file, as an index says; the files lie beside it."""
    content = read_json(path)
    index = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(index, dict) or not all(isinstance(shard, str) for shard in index.values()):
        raise CorruptionError(f"{path} is no index of weights", hint="download or copy the folder again")
    elsewhere = sorted({shard for shard in index.values() if shard in ("", ".", "..") or Path(shard).name != shard})
    if elsewhere:
        raise CorruptionError(f"{path} names files that are not in its folder: {_some(elsewhere)}")
    return index


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file.

    Raises:
        CorruptionError: it is truncated, or no such file at all.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CorruptionError(
            f"{path} is not a whole safetensors file: {error}", hint="copy or download it again"
        ) from None


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy tensors into the parameters of ``model``, all of them, by name.

    Args:
        model: changed in place; its dtype and device stay.
        tensors: one for each name of the model's state; the second name of a shared tensor may be missing.
        source: where they are from, for the message.

    Raises:
        CheckpointError: a name is missing, left over, or has another shape. The model is then unchanged.
    """
    state = model.state_dict()
    shared = {parameter.data_ptr(): name for name, parameter in reversed(list(state.items()))}
    complete = dict(tensors)
    for name, parameter in state.items():
        first = shared[parameter.data_ptr()]
        if name not in complete and first in complete:
            complete[name] = complete[first]
    missing, extra = sorted(set(state) - set(complete)), sorted(set(complete) - set(state))
    if missing or extra:
        parts = [f"lacks {_some(missing)}" if missing else "", f"has, in addition, {_some(extra)}" if extra else ""]
        raise CheckpointError(f"{source} holds another model: it {' and '.join(part for part in parts if part)}")
    for name, tensor in complete.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"{source} holds another model: {name} is {list(tensor.shape)} there, {list(state[name].shape)} here"
            )
    with torch.no_grad():
        for name, tensor in complete.items():
            state[name].copy_(tensor)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _hint_for(folder: Path) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        return (
            "its weights are pickled, and a pickle can run code, so it is not opened; "
            "save them as safetensors (in transformers: model.save_pretrained(folder))"
        )
    return "name the folder that a model was saved to"
