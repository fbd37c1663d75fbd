"""The loss scale of float16: DeepSpeed's four numbers, and torch's scaler where the two mean the same."""

from __future__ import annotations

import math
import random

import pytest
import torch

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import TrainingConfig
from llm_trainer.training import Trainer
from llm_trainer.training.precision import LossScaler, Precision
from tests.training.helpers import ListLoader, Recorder, config, tiny_model


def scales(scaler: LossScaler, overflows: str) -> list[float]:
    """The scale after each step; ``x`` is an overflow."""
    values = []
    for mark in overflows:
        scaler.update(overflow=mark == "x")
        values.append(scaler.scale)
    return values


@pytest.mark.covers("R272")
def test_the_dictionary_of_deepspeed_is_understood() -> None:
    given = {"enabled": True, "loss_scale": 0, "loss_scale_window": 500, "hysteresis": 3, "min_loss_scale": 2}
    read = TrainingConfig.from_dict({"fp16": {**given, "initial_scale_power": 10}})
    assert read.precision == "fp16"
    scaler = LossScaler.from_config(read, enabled=True)
    assert (scaler.window, scaler.hysteresis, scaler.minimum, scaler.scale) == (500, 3, 2.0, 1024.0)
    assert scaler.dynamic
    default = LossScaler.from_config(TrainingConfig(precision="fp16"), enabled=True)
    assert (default.window, default.hysteresis, default.minimum, default.dynamic) == (1000, 2, 1.0, True)
    assert TrainingConfig.from_dict({"fp16": {"enabled": False}, "bf16": {"enabled": True}}).precision == "bf16"
    assert TrainingConfig.from_dict({"fp16": {"enabled": False}}).precision == "auto"


@pytest.mark.covers("R272")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fp16": {"enabled": True, "lossscale": 0}}, r"fp16\.lossscale: unknown key"),
        ({"fp16": {"enabled": "yes"}}, "fp16: expected true or false"),
        ({"fp16": {"enabled": True, "hysteresis": 2}, "hysteresis": 3}, r"fp16\.hysteresis and hysteresis"),
        ({"fp16": {"enabled": True, "min_loss_scale": -1}}, "min_loss_scale"),
    ],
)
def test_a_wrong_dictionary_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.from_dict(values)


@pytest.mark.covers("R271", "R272")
def test_the_scale_halves_after_hysteresis_and_doubles_after_the_window() -> None:
    scaler = LossScaler(True, 64.0, window=3, hysteresis=2, minimum=16.0)
    #                        forgiven  halves  and on  never below 16
    assert scales(scaler, "x") == [64.0]
    assert scales(scaler, "xxxx") == [32.0, 16.0, 16.0, 16.0]
    # Two good steps and an overflow: the window begins again, and no overflow is forgiven any more.
    assert scales(scaler, "..x...") == [16.0, 16.0, 16.0, 16.0, 16.0, 32.0]
    # A whole window forgives again.
    assert scales(scaler, "xx") == [32.0, 16.0]


@pytest.mark.covers("R271")
def test_a_fixed_scale_stays_and_a_disabled_scaler_does_nothing() -> None:
    fixed = LossScaler.from_config(TrainingConfig(precision="fp16", loss_scale=128), enabled=True)
    assert scales(fixed, "xxx....") == [128.0] * 7
    fixed.load_state_dict({"scale": 4.0, "good_steps": 0})
    assert fixed.scale == 128.0
    assert scales(LossScaler(False), "x.x.") == [1.0] * 4


@pytest.mark.covers("R271")
def test_with_hysteresis_one_it_is_the_scaler_of_torch() -> None:
    ours = LossScaler(True, 2.0**10, window=5, hysteresis=1, minimum=2.0**-30)
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5)
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    draw = random.Random(0)
    for _ in range(300):
        overflow = draw.random() < 0.15
        theirs.scale(torch.zeros(()))
        parameter.grad = torch.tensor([1.0, math.inf if overflow else 1.0])
        theirs.step(optimizer)
        theirs.update()
        ours.update(overflow=overflow)
        assert ours.scale == theirs.get_scale()


@pytest.mark.covers("R271")
def test_a_checkpoint_keeps_the_scaler() -> None:
    pattern = "x..x.....xx...x....xxx........"
    whole = LossScaler(True, 2.0**8, window=4)
    expected = scales(whole, pattern)
    for cut in range(len(pattern)):
        first, second = LossScaler(True, 2.0**8, window=4), LossScaler(True, 2.0**8, window=4)
        before = scales(first, pattern[:cut])
        second.load_state_dict(first.state_dict())
        assert before + scales(second, pattern[cut:]) == expected


class Overflowing(Trainer):
    """Gradients overflow as soon as the scaled loss is too large, as they would in float16."""

    LARGEST = 2000.0

    def custom_training_step(self, batch):  # type: ignore[no-untyped-def]
        terms = super().custom_training_step(batch)
        terms.total.register_hook(lambda grad: grad * math.inf if float(grad) > self.LARGEST else grad)
        return terms


@pytest.mark.covers("R271")
def test_the_loop_finds_a_scale_and_trains_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(kind: type[Trainer], **changes: object) -> tuple[Trainer, torch.Tensor, list[str]]:
        recorder = Recorder()
        model = tiny_model()
        trainer = kind(
            model, config=config(**{"max_steps": 12, "lr_scheduler": "constant", **changes}), callbacks=[recorder]
        )
        trainer.fit(ListLoader())
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        return trainer, weights, recorder.messages

    _, plain, _ = train(Trainer, max_steps=7)
    monkeypatch.setattr(Precision, "needs_scaler", property(lambda self: True))
    trainer, weights, messages = train(Overflowing, fp16={"enabled": False, "initial_scale_power": 14})
    # 16384 is forgiven once, then 8192, 4096 and 2048 overflow too; 1024 does not.
    assert trainer.state.skipped_steps == 5
    assert len(messages) == 5
    assert trainer._scaler.scale == 1024.0
    assert trainer.state.step == 12
    # Seven updates on other batches than the plain run's: equal they cannot be, but they are as large.
    assert weights.isfinite().all()
    assert weights.norm() == pytest.approx(float(plain.norm()), rel=0.02)


@pytest.mark.covers("R271")
def test_a_scale_that_never_overflows_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> torch.Tensor:
        model = tiny_model()
        Trainer(model, config=config(loss_scale=256)).fit(ListLoader())
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    plain = train()
    monkeypatch.setattr(Precision, "needs_scaler", property(lambda self: True))
    assert torch.equal(train(), plain)  # a power of two changes exponents only
