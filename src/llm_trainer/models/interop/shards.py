"""A model in one safetensors file, or in several no larger than a given size, with an index of what is where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from llm_trainer.common.files import require_free_space, write_json
from llm_trainer.models.weights import INDEX, WEIGHTS, save_weights

SHARDS = "model-*-of-*.safetensors"


def save_sharded(folder: Path, tensors: Mapping[str, Tensor], *, shard_size: int | None = None) -> list[Path]:
    """Write tensors as transformers names its files.

    What an earlier save left in the folder under other names is removed last, or a reader would find two models.

    Args:
        folder: gets ``model.safetensors``, or ``model-00001-of-00003.safetensors`` and so on with an index.
        tensors: in the order in which they are divided.
        shard_size: bytes of a file; a larger tensor has a file of its own. Left out: one file.

    Returns:
        The files with weights.

    Raises:
        UserError: no space or no permission.
    """
    shards = _divide(tensors, shard_size)
    total = sum(tensor.nbytes for tensor in tensors.values())
    require_free_space(folder, total + (1 << 20), purpose=str(folder))
    if len(shards) == 1:
        names = [WEIGHTS]
    else:
        names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards):
        save_weights(folder / name, shard)
    if len(shards) > 1:
        places = {tensor: name for name, shard in zip(names, shards) for tensor in shard}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    for old in (folder / WEIGHTS, folder / INDEX, *folder.glob(SHARDS)):
        if old.name not in names and not (old.name == INDEX and len(shards) > 1):
            old.unlink(missing_ok=True)
    return [folder / name for name in names]


def _divide(tensors: Mapping[str, Tensor], size: int | None) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        if size is not None and shards[-1] and held + tensor.nbytes > size:
            shards.append({})
            held = 0
        shards[-1][name] = tensor
        held += tensor.nbytes
    return shards
