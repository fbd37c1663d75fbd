"""Look at a stranger's configuration before it costs anything: a model is built from the numbers in it, and one number
that is wrong, by damage or by malice, would take all memory or all time.
"""

from __future__ import annotations

from collections.abc import Collection

import psutil
import torch
from torch import nn

from llm_trainer.common.errors import CheckpointError
from llm_trainer.common.files import human_bytes
from llm_trainer.config import ModelConfig

LARGEST = 2**31 - 1
"""Of any size; beyond it, products of two would no longer fit PyTorch's 64 bits."""
GRACE = 2**20
"""Numbers that may be missing before this is the place to say so; what is missing is named when weights are read."""


def require_plausible_sizes(config: ModelConfig, source: str) -> None:
    """Stop at sizes that no model has.

    Args:
        config: read from a file.
        source: the file or folder, for the message.

    Raises:
        CheckpointError: naming the setting.
    """
    for name in ModelConfig.model_fields:
        value = getattr(config, name)
        if isinstance(value, int) and value > LARGEST:
            raise CheckpointError(f"{source}: no model has {name}={value}; the most is {LARGEST:,}")


def require_weights_for(model_class: type[nn.Module], config: ModelConfig, sizes: Collection[int], source: str) -> None:
    """Stop before a model is built that is far larger than the weights there are for it, or than this machine.

    Args:
        model_class: to be built from ``config``.
        config: read from a file.
        sizes: how many numbers each tensor of the file or folder holds.
        source: the file or folder, for the message.

    Raises:
        CheckpointError: saying what is asked for and what there is.
    """
    require_plausible_sizes(config, source)
    held = sum(sizes)
    if config.n_layers > len(sizes):
        raise CheckpointError(f"{source}: {config.n_layers:,} layers are more than the {len(sizes):,} tensors there")
    try:
        with torch.device("meta"):
            model = model_class(config)
    except RuntimeError:  # a size beyond 64 bits
        raise CheckpointError(f"{source}: the sizes in its configuration make no model") from None
    wanted = sum(parameter.numel() for parameter in model.parameters())
    if wanted > 2 * held + GRACE:
        raise CheckpointError(
            f"{source}: its configuration asks for {wanted:,} parameters, and its weights hold {held:,} numbers: it is "
            "damaged, or the two do not belong together"
        )
    tables = sum(buffer.nbytes for buffer in model.buffers())
    memory = psutil.virtual_memory().total
    if tables > memory:
        raise CheckpointError(
            f"{source}: the tables of a context of {config.max_seq_len:,} tokens take {human_bytes(tables)}, and this "
            f"machine has {human_bytes(memory)}"
        )
