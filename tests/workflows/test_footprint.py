"""The estimate of memory, against the memory that training allocates."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from llm_trainer.config import ModelConfig, RunConfig, TrainingConfig
from llm_trainer.models import TransformerLM, build_model
from llm_trainer.models.presets import PRESETS, preset
from llm_trainer.training import Trainer
from llm_trainer.training.optimizer import optimizers_of
from llm_trainer.workflows.batch_trial import made_up_batch
from llm_trainer.workflows.estimate import describe_fit, memory_of, ways_to_fit
from llm_trainer.workflows.footprint import Footprint, footprint

GPT2 = {
    "vocab_size": 500,
    "d_model": 96,
    "n_heads": 4,
    "n_layers": 4,
    "max_seq_len": 64,
    "activation": "gelu_tanh",
    "norm": "layernorm",
    "position": "learned",
    "bias": True,
}
LLAMA = {
    "vocab_size": 2000,
    "d_model": 128,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 4,
    "max_seq_len": 96,
    "activation": "swiglu",
    "norm": "rmsnorm",
    "position": "rope",
    "tie_embeddings": False,
}


def settings(**changes: object) -> TrainingConfig:
    # Untuned: trying out what is fastest takes memory of its own.
    values = {"max_steps": 2, "batch_size": 8, "device": "cpu", "num_threads": 1, "tune": False, **changes}
    values.setdefault("precision", "fp32")
    return TrainingConfig.from_dict(values)


class Loader:
    """The same batch again and again."""

    fingerprint = "one"

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1000

    def batches(self, start: int, stop: int | None) -> Iterator[dict[str, Tensor]]:
        while True:
            yield self.batch


def train(shape: ModelConfig, training: TrainingConfig) -> Trainer:
    batch: Any = made_up_batch(training.batch_size, shape.max_seq_len, shape.vocab_size)
    trainer = Trainer(TransformerLM(shape), None, training)
    trainer.fit(Loader(batch))
    return trainer


def most_allocated(shape: ModelConfig, training: TrainingConfig) -> int:
    """The largest sum of what PyTorch's allocator had given out, over building the model and some steps."""
    gc.collect()  # or the model of the test before is freed meanwhile, and its size missing here
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        train(shape, training)
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


@pytest.mark.covers("R279")
@pytest.mark.parametrize("shape", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_every": 2},
        {"optimizer": "adafactor", "use_ema": True},
        {"optimizer": "muon", "batch_size": 2},
        {"precision": "bf16"},
    ],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()) or "plain",
)
def test_it_is_what_training_allocates(shape: dict[str, object], changes: dict[str, object]) -> None:
    model, training = ModelConfig.from_dict(shape), settings(**changes)
    estimated = footprint(model, training, model.max_seq_len, training.precision).peak
    measured = most_allocated(model, training)
    assert 0.8 < estimated / measured < 1.25, f"{estimated:,} estimated, {measured:,} measured"


@pytest.mark.covers("R279", "R281")
def test_the_parts_are_what_their_names_say() -> None:
    shape = ModelConfig.from_dict(LLAMA)
    count = TransformerLM(shape).num_parameters()
    for optimizer, bytes_each in (("adamw", 8), ("sgd", 4)):
        part = footprint(shape, settings(optimizer=optimizer), 96, "fp32")
        assert part.gradients == 4 * count
        assert part.optimizer == pytest.approx(bytes_each * count, rel=1e-3)
        assert part.weights == pytest.approx(4 * count, rel=0.01)
        trainer = train(shape, settings(optimizer=optimizer))
        states = [state for piece in optimizers_of(trainer.optimizer) for state in piece.state.values()]
        held = sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))
        assert part.optimizer == held


@pytest.mark.covers("R281")
def test_adapters_need_hardly_any_optimizer_memory() -> None:
    def state_bytes(**changes: object) -> tuple[int, Footprint]:
        training = settings(**changes)
        trainer = train(ModelConfig.from_dict(LLAMA), training)
        states = trainer.optimizer.state.values()
        held = sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))
        return held, footprint(ModelConfig.from_dict(LLAMA), training, 96, "fp32")

    full, _ = state_bytes()
    adapted, part = state_bytes(use_peft=True, peft_r=4)
    assert adapted < full / 50
    assert part.optimizer == adapted
    assert part.gradients < full / 50


@pytest.mark.covers("R275")
def test_recomputing_more_blocks_keeps_less() -> None:
    shape = ModelConfig.from_dict({**GPT2, "n_layers": 8})
    kept = [
        footprint(shape, settings(gradient_checkpointing=True, gradient_checkpointing_every=every), 64, "fp32")
        for every in (1, 2, 4)
    ]
    plain = footprint(shape, settings(), 64, "fp32")
    sizes = [part.activations for part in (*kept, plain)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] / 3


@pytest.mark.covers("R279")
def test_the_question_of_small_cards_is_answered() -> None:
    run = RunConfig(model=preset("llama2c_15m"), training=settings(batch_size=128, gradient_accumulation_steps=2))
    fits = ways_to_fit(run)
    assert fits[0].changes == {}
    assert fits[0].memory == memory_of(run)
    for fit in fits[1:]:
        assert fit.memory.peak < fits[0].memory.peak
    single = next(fit for fit in fits if fit.changes.get("batch_size") == 1)
    assert single.changes["gradient_accumulation_steps"] == 256
    assert not fits[0].fits(4 << 30)
    assert single.fits(4 << 30)
    text = describe_fit(run, [4 << 30, 16 << 30])
    for word in ("weights", "gradients", "optimizer", "activations", "loss", "peak", "4.0 GB", "16.0 GB"):
        assert word in text
    assert "as configured" in text
    assert [line.split()[-2:] for line in text.splitlines() if line.startswith("as configured")] == [["no", "fits"]]


@pytest.mark.slow
@pytest.mark.covers("R279")
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_estimated(name: str) -> None:
    shape = preset(name)
    with torch.device("meta"):
        count = build_model(shape).num_parameters()
    part = footprint(shape, settings(batch_size=1), min(512, shape.max_seq_len), "bf16")
    assert part.gradients == 4 * count
    assert part.peak > 16 * count
