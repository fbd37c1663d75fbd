"""A tiny model and an in-memory loader, so that these tests are about the loop alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.models import TransformerLM
from llm_trainer.training.callbacks import Callback

VOCABULARY = 61


def tiny_model(seed: int = 0, **changes: object) -> TransformerLM:
    """2 blocks, 32 wide."""
    values = {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 16, **changes}
    torch.manual_seed(seed)
    return TransformerLM(ModelConfig.from_dict(values))


def config(**changes: object) -> TrainingConfig:
    """A short run on one CPU thread."""
    values = {"device": "cpu", "max_steps": 6, "batch_size": 4, "warmup_steps": 0, "num_threads": 1}
    values |= {"tune": False, **changes}
    if not {"precision", "use_amp", "use_mixed_precision", "fp16", "use_accelerate"} & set(changes):
        values["precision"] = "fp32"
    return TrainingConfig.from_dict(values)


class ListLoader:
    """Sequences in a fixed order, repeated for ever; the first ``ragged`` labels of some rows are masked."""

    fingerprint = "list"

    def __init__(self, sequences: int = 64, length: int = 16, batch_size: int = 4, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rows = torch.randint(0, VOCABULARY, (sequences, length), generator=generator)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self, row: int) -> Tensor:
        """Rows have different numbers of targets, or a mean of means would pass for a global mean."""
        labels = self.rows[row].clone()
        labels[: row % 11] = -100
        return labels

    def batches(self, start: int, stop: int | None) -> Iterator[dict[str, Tensor]]:
        position = start
        while stop is None or position < stop:
            end = position + self.batch_size if stop is None else min(position + self.batch_size, stop)
            rows = [index % len(self.rows) for index in range(position, end)]
            yield {"input_ids": self.rows[rows], "labels": torch.stack([self.labels(row) for row in rows])}
            position = end


class Recorder(Callback):
    """Keeps everything that the loop reports."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.logs: list[dict[str, float]] = []
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self.saves: list[int] = []
        self.messages: list[str] = []
        self.outcome = ""

    def on_step(self, trainer: object) -> None:
        self.losses.append(trainer.loss)  # type: ignore[attr-defined]

    def on_log(self, trainer: object, metrics: dict[str, float]) -> None:
        self.logs.append(metrics)

    def on_evaluate(self, trainer: object, metrics: dict[str, float]) -> None:
        self.evaluations.append((trainer.state.step, metrics))  # type: ignore[attr-defined]

    def on_save(self, trainer: object, checkpoint: object) -> None:
        self.saves.append(trainer.state.step)  # type: ignore[attr-defined]

    def on_message(self, trainer: object, text: str) -> None:
        self.messages.append(text)

    def on_end(self, trainer: object, outcome: str, message: str) -> None:
        self.outcome = outcome
