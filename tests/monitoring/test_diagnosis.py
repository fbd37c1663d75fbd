"""The remark on the fit, on curves whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from llm_trainer.monitoring.diagnosis import diagnose
from llm_trainer.monitoring.metrics_file import MetricsLog

Curve = Callable[[float], float]


def log_of(training: Curve, validation: Curve, validations: int = 20) -> MetricsLog:
    records = [{"step": step, "time": 0.0, "train/loss": training(step / 1000)} for step in range(1, 1001)]
    every = 1000 // validations
    records += [
        {"step": step, "time": 0.0, "validation/loss": validation(step / 1000)} for step in range(every, 1001, every)
    ]
    return MetricsLog(records)


def falling(t: float) -> float:
    return 3 + 5 * math.exp(-2 * t)


def settled(t: float) -> float:
    return 3 + 5 * math.exp(-20 * t)


def rising(t: float) -> float:
    return settled(t) + max(0.0, t - 0.5)


@pytest.mark.covers("R250")
@pytest.mark.parametrize(
    ("training", "validation", "verdict"),
    [
        (falling, falling, "learning"),
        (settled, settled, "levelled off"),
        (falling, rising, "overfitting"),
        (lambda t: 9.0, lambda t: 9.0, "not learning"),
        (lambda t: 9 + t, lambda t: 9 + t, "not learning"),
    ],
)
def test_the_verdict(training: Curve, validation: Curve, verdict: str) -> None:
    assert diagnose(log_of(training, validation)).verdict == verdict


@pytest.mark.covers("R250")
def test_overfitting_names_the_best_step() -> None:
    diagnosis = diagnose(log_of(falling, rising))
    assert diagnosis.best_step == 500
    assert "step 500" in diagnosis.text and "overfitting" in diagnosis.text


def test_too_little_to_judge() -> None:
    assert diagnose(MetricsLog([])).verdict == "unknown"
    assert diagnose(log_of(falling, falling, validations=2)).verdict == "unknown"
