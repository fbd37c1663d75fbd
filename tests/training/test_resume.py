"""Resuming under changed circumstances: what may change, what may not, and what is never lost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from llm_trainer.common.errors import CheckpointError, UserError
from llm_trainer.monitoring.metrics import read_metrics
from llm_trainer.training import Trainer
from llm_trainer.training.checkpoint import list_checkpoints, remove_old_checkpoints, save_checkpoint
from llm_trainer.training.reporting import RunReporter
from tests.training.helpers import ListLoader, Recorder, config, tiny_model


class Stopped(Recorder):
    """Asks the run to stop after a step, as a signal would."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def on_step(self, trainer: Any) -> None:
        super().on_step(trainer)
        if trainer.state.step == self.after:
            trainer._guard.requested = "SIGTERM"


def run(folder: Path, *, stop: int | None = None, resume: bool = False, eval_data: bool = False, **changes: Any) -> Any:
    recorder = Recorder() if stop is None else Stopped(stop)
    batch_size = changes.get("batch_size", 4)
    trainer = Trainer(tiny_model(), config=config(**changes), run_dir=folder, callbacks=[recorder])
    result = trainer.fit(
        ListLoader(sequences=64, batch_size=batch_size),
        ListLoader(sequences=8, seed=2) if eval_data else None,
        resume=resume,
    )
    return trainer, result, recorder


@pytest.mark.covers("R298")
@pytest.mark.parametrize("batch_size", [2, 8])
def test_another_batch_size_still_sees_every_sequence(tmp_path: Path, batch_size: int) -> None:
    run(tmp_path, stop=8, max_steps=None, num_epochs=1)
    trainer, result, _ = run(tmp_path, resume=True, max_steps=None, num_epochs=1, batch_size=batch_size)
    assert (result.outcome, trainer.state.sequences) == ("finished", 64)
    assert math.isfinite(result.loss)


def test_more_steps_may_be_asked_for(tmp_path: Path) -> None:
    run(tmp_path, max_steps=5)
    _, result, _ = run(tmp_path, resume=True, max_steps=9)
    assert (result.outcome, result.step) == ("finished", 9)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    _, first, _ = run(tmp_path, max_steps=5, eval_data=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    _, second, recorder = run(tmp_path, max_steps=5, resume=True, eval_data=True)
    assert (second.outcome, second.step, second.loss, second.metrics) == ("finished", 5, first.loss, first.metrics)
    assert recorder.losses == [] and recorder.saves == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    run(tmp_path, max_steps=3)
    with pytest.raises(UserError, match="already holds a run"):
        run(tmp_path, max_steps=3)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"optimizer": "sgd"}, {"optimizer": "adamw"}, "trained with SGD; this run uses AdamW"),
        ({"optimizer": "muon"}, {"optimizer": "adamw"}, "trained with Muon and AdamW; this run uses AdamW"),
        ({}, {"use_ema": True}, "trained without use_ema"),
        ({"use_ema": True}, {}, "trained with use_ema"),
        ({"seed": 1}, {"seed": 2}, "trained with seed 1; with seed 2"),
    ],
)
def test_what_may_not_change_is_named(tmp_path: Path, first: Any, second: Any, message: str) -> None:
    run(tmp_path, max_steps=3, **first)
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, max_steps=6, resume=True, **second)


@pytest.mark.covers("R302")
def test_rotation_goes_by_number_and_drops_damaged_later_ones(tmp_path: Path) -> None:
    for step in (8, 12, 999_999, 1_000_000):
        save_checkpoint(tiny_model(), None, step, directory=tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path)][-2:] == ["step-999999", "step-1000000"]
    # A resumed run that fell back to 8 saves 11: what lies beyond is what it could not use.
    save_checkpoint(tiny_model(), None, 11, directory=tmp_path)
    remove_old_checkpoints(tmp_path, newest=11, keep_last=1, keep=set())
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000011"]


@pytest.mark.covers("R302")
def test_the_best_saved_checkpoint_stays_even_if_an_unsaved_step_was_better(tmp_path: Path) -> None:
    losses = iter([3.0, 2.9, 2.0, 2.1, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0])
    settings = config(max_steps=20, save_steps=4, eval_steps=2, keep_last=1)
    trainer = Trainer(tiny_model(), config=settings, run_dir=tmp_path)
    trainer._evaluate = lambda loader: {"validation/loss": next(losses)}  # type: ignore[method-assign]
    trainer.fit(ListLoader(), ListLoader(sequences=8))
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-000008", "step-000020"]


@pytest.mark.covers("R250")
def test_patience_that_ran_out_stays_out(tmp_path: Path) -> None:
    def fit(losses: list[float], resume: bool) -> Any:
        settings = config(max_steps=20, save_steps=1, eval_steps=1, early_stopping_patience=2)
        trainer = Trainer(tiny_model(), config=settings, run_dir=tmp_path)
        trainer._evaluate = lambda loader: {"validation/loss": losses.pop(0)}  # type: ignore[method-assign]
        return trainer.fit(ListLoader(), ListLoader(sequences=8), resume=resume)

    assert fit([3.0, 3.1, 3.2], False).step == 3
    assert fit([3.2], True).step == 3


@pytest.mark.covers("R316")
def test_a_validation_that_a_kill_prevented_is_made_up_for_and_none_is_logged_twice(tmp_path: Path) -> None:
    def fit(resume: bool, fail: bool) -> None:
        settings = config(max_steps=8, save_steps=4, eval_steps=4, logging_steps=2)
        reporter = RunReporter(tmp_path, settings, quiet=True)
        trainer = Trainer(tiny_model(), config=settings, run_dir=tmp_path, callbacks=[reporter])
        if fail:
            trainer._evaluate = lambda loader: (_ for _ in ()).throw(RuntimeError("killed"))  # type: ignore[method-assign]
        trainer.fit(ListLoader(), ListLoader(sequences=8), resume=resume)

    with pytest.raises(RuntimeError, match="killed"):
        fit(False, True)
    fit(True, False)
    fit(True, False)
    records = read_metrics(tmp_path)
    assert [record["step"] for record in records if "validation/loss" in record] == [4, 8]
    assert [record["step"] for record in records if "train/loss" in record] == [2, 4, 6, 8]


def test_a_signal_in_the_last_step_does_not_unfinish_a_run(tmp_path: Path) -> None:
    _, result, recorder = run(tmp_path, stop=5, max_steps=5, eval_data=True)
    assert (result.outcome, recorder.outcome) == ("finished", "finished")
    assert result.metrics


def test_evaluating_before_training_needs_data() -> None:
    trainer = Trainer(tiny_model(), config=config())
    with pytest.raises(UserError, match="there is no data to evaluate on"):
        trainer.evaluate()
    assert trainer.evaluate(ListLoader(sequences=8))["validation/loss"] > 0
