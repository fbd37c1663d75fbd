"""Runs as lists: quick whatever their size, and true whatever state they are in."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.monitoring.naming import human_count, name_suggestions, next_run_name, numbered_name, validate_run_name
from llm_trainer.monitoring.runs import find_run, list_checkpoints, list_runs, parameter_count, run_info
from tests.monitoring.folders import full_run, training_records, write_checkpoint, write_metrics, write_status


@pytest.mark.covers("R079")
def test_fifty_runs_with_a_gigabyte_each_list_in_under_a_second(tmp_path: Path) -> None:
    for index in range(50):
        run = tmp_path / f"415M_FineWeb_512_run_{index + 1}"
        write_metrics(run, training_records(200))
        write_status(run, "finished", step=200, time=2_000.0 + index)
        write_checkpoint(run, 762, loss=5.3716, time=1_756_427_760.0, size=1 << 30)
    # The time of this process, so that a busy machine does not fail the test.
    start = time.process_time()
    runs = list_runs(tmp_path)
    lines = [info.line for run in runs for info in list_checkpoints(run.path)]
    assert time.process_time() - start < 1.0
    assert len(runs) == len(lines) == 50
    assert runs[0].name == "415M_FineWeb_512_run_50"  # the newest first
    assert runs[0].parameters == 300_000  # from the header of the weights
    assert runs[0].size > 1 << 30
    assert (runs[0].state, runs[0].step, runs[0].checkpoints) == ("finished", 762, 1)


@pytest.mark.covers("R076", "R081", "R307")
def test_checkpoint_lines_are_the_documented_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    run = tmp_path / "415M_FineWeb_512_run_1"
    write_checkpoint(run, 1000, loss=None, time=1_756_434_960.0)
    write_checkpoint(run, 762, loss=5.37161, time=1_756_434_960.0)
    write_metrics(run, [{"step": 900, "time": 1.0, "train/loss": 4.5}, {"step": 1100, "time": 2.0, "train/loss": 1.0}])
    (run / "checkpoints" / "step-001200").mkdir()  # a save that was cut short has no manifest
    first, second = list_checkpoints(run)
    assert first.label == "415M_FineWeb_512_checkpoint_762_run_1"
    assert first.line == "Step: 762 | Loss: 5.3716 | Time: 2025-08-29 02:36"
    assert re.fullmatch(r"\d+M_\w+_\d+_checkpoint_\d+_run_\d+", second.label)
    assert second.loss == 4.5  # the newest logged loss up to its step


def test_run_info_of_a_whole_run(tmp_path: Path) -> None:
    info = run_info(full_run(tmp_path / "a_run_1"))
    assert (info.name, info.state, info.step, info.checkpoints) == ("a_run_1", "finished", 60, 1)
    assert info.bits_per_byte == 1.5  # the evaluation on all held-out text, not the last validation
    assert info.loss == pytest.approx(2.515, abs=0.01)
    (tmp_path / "a_run_1" / "evaluation.json").unlink()
    validated = run_info(tmp_path / "a_run_1").bits_per_byte
    assert validated == pytest.approx(0.6 * 2.615, abs=0.01)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "status.json", "evaluation.json", "derived.json"])
def test_a_damaged_file_does_not_break_the_list(tmp_path: Path, name: str) -> None:
    run = full_run(tmp_path / "a_run_1")
    (run / name).write_bytes(b"\xff\x00{[")
    (tmp_path / "not_a_run").mkdir()
    (tmp_path / "a_file").write_text("x")
    assert [info.name for info in list_runs(tmp_path)] == ["a_run_1"]
    assert list_runs(tmp_path / "nowhere") == []


def test_parameter_count_prefers_what_the_run_says(tmp_path: Path) -> None:
    run = full_run(tmp_path / "a_run_1")
    assert parameter_count(run) == 300_000
    (run / "derived.json").write_text('[{"key": "model.parameters", "value": "4,912,345", "reason": "counted"}]')
    assert parameter_count(run) == 4_912_345
    (run / "derived.json").unlink()
    (run / "checkpoints" / "step-000060" / "model.safetensors").write_bytes(b"\xff" * 100)
    assert parameter_count(run) is None


def test_find_run_by_name_or_folder(tmp_path: Path) -> None:
    run = full_run(tmp_path / "first_run_1")
    assert find_run(tmp_path, "first_run_1") == run
    assert find_run("elsewhere", str(run)) == run
    with pytest.raises(UserError, match="did you mean 'first_run_1'"):
        find_run(tmp_path, "frist_run_1")


@pytest.mark.covers("R078", "R080")
def test_names_say_parameters_data_length_and_try(tmp_path: Path) -> None:
    assert next_run_name(tmp_path / "new", 4_912_345, "builtin", 256) == "4.9M_builtin_256_run_1"
    for name in ("4.9M_builtin_256_run_1", "4.9m_BUILTIN_256_run_7", "4.9M_builtin_2560_run_9"):
        (tmp_path / name).mkdir()
    assert next_run_name(tmp_path, 4_912_345, "builtin", 256) == "4.9M_builtin_256_run_8"
    # A model with grouped-query attention is named by what it has, not by a formula that ignores it.
    assert next_run_name(tmp_path, 372_800_000, "HuggingFaceFW/FineWeb", 512) == "373M_FineWeb_512_run_1"
    assert next_run_name(tmp_path, 1000, "/data/my texts (new)/", 64) == "1.0K_my-texts-new_64_run_1"
    validate_run_name(next_run_name(tmp_path, 1000, "/data/мой текст?*", 64))
    assert numbered_name(tmp_path, "mine") == "mine_run_1"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (7, "7"),
        (999, "999"),
        (64_000, "64K"),
        (999_600, "1.0M"),
        (9_949_999, "9.9M"),
        (9_960_000, "10M"),
        (124_439_808, "124M"),
        (1_100_000_000, "1.1B"),
    ],
)
def test_human_count(count: int, text: str) -> None:
    assert human_count(count) == text


@pytest.mark.covers("R077")
def test_suggestions_are_the_documented_four(tmp_path: Path) -> None:
    assert name_suggestions(415_000_000, "FineWeb", 512) == [
        ("415M_FineWeb_512", "415M parameters, FineWeb dataset, 512 seq_len"),
        ("experiment_415M_FineWeb_512", "Experimental run"),
        ("modern_llm_415M", "Modern LLM architecture"),
        ("test_415M", "Test run"),
    ]
    assert validate_run_name("мой.опыт-2", tmp_path) == "мой.опыт-2"


@pytest.mark.covers("R077")
@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "../up", "-rf", ".hidden", "a b", "x" * 121, "CON", "nul.txt", "a\n", "dot."]
)
def test_names_that_no_folder_should_have_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        validate_run_name(name)


@pytest.mark.covers("R077")
def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "mine")
    with pytest.raises(ConfigError, match="exists already"):
        validate_run_name("mine", tmp_path)
