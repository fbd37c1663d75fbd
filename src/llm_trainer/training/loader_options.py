"""What a run's configuration says to every loader of training sequences."""

from __future__ import annotations

from typing import Any

from llm_trainer.common.devices import rank, world_size
from llm_trainer.config import TrainingConfig


def loader_options(config: TrainingConfig) -> dict[str, Any]:
    """Seed, workers, this rank and the share of an epoch, as arguments of :class:`~llm_trainer.data.PackedLoader`."""
    return {
        "seed": config.seed,
        "num_workers": config.dataloader_num_workers,
        "pin_memory": config.dataloader_pin_memory,
        "rank": rank(),
        "world_size": world_size(),
        "epoch_fraction": config.epoch_dataset_fraction,
    }
