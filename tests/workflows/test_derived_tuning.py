"""What tuning finds is written into the configuration, told, and kept by a resumed run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm_trainer.config import RunConfig, save_config
from llm_trainer.config.loading import build
from llm_trainer.training.precision import Precision
from llm_trainer.training.run_folder import CONFIG, ENVIRONMENT, describe_run
from llm_trainer.training.tuning import Tuning, tune
from llm_trainer.training.tuning_probe import Setting
from llm_trainer.training.tuning_search import Measurement
from llm_trainer.workflows import derive as derive_module
from llm_trainer.workflows.derive import derive
from llm_trainer.workflows.pretrain import _keep_what_was_measured
from tests.training.helpers import tiny_model

REASONS = {name: f"why {name}" for name in ("precision", "num_threads", "reuse_memory", "compile", "batch_size")}
FOUND = Tuning(
    Precision("bf16", "cpu", "why precision"),
    1,
    True,
    False,
    2,
    4,
    REASONS,
    measured=(Measurement(Setting("bf16", 1, True, 4), 12.5),),
)
CHOSEN = {
    "precision": "bf16",
    "num_threads": 1,
    "reuse_memory": True,
    "compile": False,
    "batch_size": 2,
    "gradient_accumulation_steps": 4,
}


def run_of(**training: object) -> RunConfig:
    return build({"model": {"d_model": 32, "n_heads": 4, "n_layers": 2}, "training": {"device": "cpu", **training}}).run


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose measurements are known; what is given is respected by the real function."""
    monkeypatch.setattr(derive_module, "tune", lambda *arguments, **options: FOUND)


def test_every_choice_is_set_and_told_with_its_reason(found: None) -> None:
    run = run_of()
    derived = derive(run, 1_000_000)
    told = {note.key: note for note in derived.notes}
    for name, value in CHOSEN.items():
        assert getattr(run.training, name) == value
        assert told[f"training.{name}"].value == value
    assert str(told["training.num_threads"]) == "training.num_threads = 1: why num_threads"
    assert "8 sequences" in str(told["effective batch"].value)
    assert derived.tuning is FOUND


def test_the_probe_gets_the_shape_that_will_be_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []

    def fake(shape: object, training: object, length: int, device: object, **options: object) -> Tuning:
        seen.append((shape.vocab_size, length, options["micro_batch"], options["tokens"]))  # type: ignore[attr-defined]
        return FOUND

    monkeypatch.setattr(derive_module, "tune", fake)
    derive(run_of(max_steps=10, sequence_length=64), 500_000)
    assert seen == [(1024, 64, True, 10 * 8 * 64)]


def test_a_derived_configuration_has_nothing_left_to_measure(found: None, tmp_path: Path) -> None:
    run = run_of()
    derive(run, 1_000_000)
    again = build(run.to_dict()).run.training
    assert not tune(run.model, again, 64, torch.device("cpu")).measured


def test_a_resumed_run_computes_as_before(found: None, tmp_path: Path) -> None:
    run = run_of()
    derive(run, 1_000_000)
    save_config(run, tmp_path / CONFIG)
    resumed = run_of()
    _keep_what_was_measured(resumed, tmp_path)
    assert {name: getattr(resumed.training, name) for name in CHOSEN} == CHOSEN
    larger = run_of(batch_size=16)
    _keep_what_was_measured(larger, tmp_path)
    assert larger.training.sequences_per_step() == 16


def test_the_table_is_in_the_environment_and_survives_a_resume(tmp_path: Path) -> None:
    class NoTokenizer:
        def save_pretrained(self, folder: Path) -> None:
            Path(folder).mkdir()

    def tuning_of(tuning: Tuning | None) -> dict[str, object]:
        describe_run(tmp_path, run_of(), tiny_model(), NoTokenizer(), tuning=tuning)
        result: dict[str, object] = json.loads((tmp_path / ENVIRONMENT).read_text(encoding="utf-8"))["tuning"]
        return result

    first = tuning_of(FOUND)
    assert first["measured"] == [
        {
            "setting": {"precision": "bf16", "num_threads": 1, "reuse_memory": True, "rows": 4, "compile": False},
            "milliseconds": 12.5,
        }
    ]
    assert tuning_of(replace(FOUND, measured=())) == first
    (tmp_path / ENVIRONMENT).write_text("{", encoding="utf-8")
    assert tuning_of(replace(FOUND, measured=()))["measured"] == []
