"""What a model consists of, from a configuration, a run or a folder; nothing is loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from llm_trainer.config import ModelConfig, load_config
from llm_trainer.models import TransformerLM
from llm_trainer.models.base import read_config
from llm_trainer.models.interop.convert import config_from_hf
from llm_trainer.models.summary import describe
from llm_trainer.workflows.load import find_run


def inspect_model(target: str, *, runs_dir: Path = Path("runs")) -> str:
    """The parameters of a model as a table, with totals.

    Args:
        target: a configuration file, a run, or a folder with a model of ours.
        runs_dir: the folder that holds the runs.
    """
    config = _model_config(target, runs_dir)
    with torch.device("meta"):
        model = TransformerLM(config)
    flops = model.flops_per_token(config.max_seq_len)
    return (
        f"{describe(model)}\n\n{flops / 1e6:,.1f} MFLOP a token (forward and backward, context {config.max_seq_len:,})"
    )


def _model_config(target: str, runs_dir: Path) -> ModelConfig:
    path = Path(target)
    if path.suffix in (".yaml", ".yml", ".json"):
        return load_config(path).run.model
    folder = find_run(target, runs_dir)
    if (folder / "config.yaml").exists():
        return load_config(folder / "config.yaml").run.model
    values = read_config(folder)
    return config_from_hf(values) if "model_type" in values else ModelConfig.from_dict(values)
