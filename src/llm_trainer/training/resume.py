"""What must not change between the two parts of a run."""

from __future__ import annotations

from llm_trainer.common.errors import CheckpointError
from llm_trainer.config import TrainingConfig
from llm_trainer.training.checkpoint import LoadedCheckpoint


def check_resumable(loaded: LoadedCheckpoint, config: TrainingConfig, *, data: str) -> None:
    """Refuse to go on with a checkpoint that this run cannot continue exactly.

    Batch size, accumulation, number of ranks and length of the run may change: the position in the data is a count of
    sequences. Data, seed and averaging may not.

    Args:
        loaded: the checkpoint.
        config: the configuration of this part.
        data: fingerprint of the data of this part.

    Raises:
        CheckpointError: naming the first difference.
    """
    path, saved = loaded.path, loaded.state
    if saved["data"] != data:
        raise CheckpointError(
            f"checkpoint {path} was trained on other data than the data of this run",
            hint="resume with the same data, tokenizer and sequence length, or start a new run",
        )
    if saved["seed"] != config.seed:
        raise CheckpointError(
            f"checkpoint {path} was trained with seed {saved['seed']}; with seed {config.seed} the data would "
            "come in another order, some of it twice",
            hint=f"resume with training.seed={saved['seed']}, or start a new run",
        )
    if config.use_ema != bool(loaded.averages):
        raise CheckpointError(
            f"checkpoint {path} was trained {'with' if loaded.averages else 'without'} use_ema",
            hint="resume with training.use_ema as in the run's config.yaml, or start a new run",
        )
