"""The search for a micro-batch that fits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from llm_trainer.cli.app import app
from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.config import ModelConfig, RunConfig, TrainingConfig, save_config
from llm_trainer.workflows import batch_size, batch_trial
from llm_trainer.workflows.batch_size import RESOLUTION, find_batch_size, search, try_in_process
from llm_trainer.workflows.batch_trial import Trial
from llm_trainer.workflows.target import load_target, parse_memory

MB = 1 << 20


def run_config(**training: object) -> RunConfig:
    values = {"batch_size": 4, "gradient_accumulation_steps": 12, "device": "cpu", "precision": "fp32", **training}
    return RunConfig(
        model=ModelConfig(vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_seq_len=64),
        training=TrainingConfig.from_dict({"num_threads": 1, **values}),
    )


@pytest.mark.covers("R269")
@settings(max_examples=200, deadline=None)
@given(room=st.integers(1, 3000), ceiling=st.integers(1, 2048))
def test_the_largest_is_found_without_trying_all(room: int, ceiling: int) -> None:
    tried: list[int] = []

    def attempt(rows: int) -> Trial:
        tried.append(rows)
        return Trial(rows, rows <= room, rows, 1.0)

    trials = search(attempt, ceiling)
    best = max(trial.batch_size for trial in trials if trial.fits)
    right = min(room, ceiling)
    assert right - max(1, right // RESOLUTION) < best <= right
    if right <= RESOLUTION or right == ceiling:
        assert best == right
    assert len(set(tried)) == len(tried) <= 18
    assert max(tried) <= min(ceiling, 2 * room)
    assert [trial.batch_size for trial in trials] == sorted(tried)


@pytest.mark.covers("R269")
def test_the_advice_keeps_the_effective_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """48 sequences a step; 20 fit, and 8 at a time are fastest."""

    def attempt(run: RunConfig, rows: int, limit: int) -> Trial:
        assert limit == 700 * MB
        return Trial(rows, rows <= 20, rows * 30 * MB, 1000.0 - abs(rows - 8))

    monkeypatch.setattr(batch_size, "try_in_process", attempt)
    lines: list[str] = []
    found = find_batch_size(run_config(), memory=700 * MB, echo=lines.append)
    assert (found.largest.batch_size, found.fastest.batch_size) == (20, 8)
    assert lines[0] == "memory: 700.0 MB on cpu"
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "4", "8", "16", "32", "24", "20", "22", "21"]
    assert sum("too large" in line for line in lines) == 4
    assert found.summary().endswith("training:\n  batch_size: 8\n  gradient_accumulation_steps: 6")
    assert "memory was not the limit" not in found.summary()
    unlimited = find_batch_size(run_config(), memory=700 * MB, most=16, echo=lines.append)
    assert "16 was the most to be tried" in unlimited.summary()


@pytest.mark.covers("R269")
def test_nothing_fits_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "try_in_process", lambda run, rows, limit: Trial(rows, False, limit, 0.0))
    with pytest.raises(UserError, match=r"not even one sequence fits in 300\.0 MB"):
        find_batch_size(run_config(), memory=300 * MB, echo=lambda text: None)


@pytest.mark.covers("R269")
def test_a_trial_trains_as_the_run_will(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_trial, "ENOUGH_SECONDS", 0.0)
    trial = batch_trial.try_here(run_config(), 2)
    assert trial.fits
    assert trial.tokens_per_second > 0
    assert trial.peak > 100 * MB  # of the whole process


@pytest.mark.covers("R269")
def test_a_trial_that_runs_out_of_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def cramped(self: object, model: object, batch: dict[str, object]) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(batch_trial.CausalLM, "loss", cramped)
    for rows in (1, 8):
        assert not batch_trial.try_here(run_config(), rows).fits


@pytest.mark.covers("R269")
def test_a_process_that_holds_too_much_is_ended() -> None:
    """2048 rows of 64 tokens keep some 900 MB of activations; the process itself takes 300."""
    started = time.monotonic()
    trial = try_in_process(run_config(gradient_accumulation_steps=512), 2048, 500 * MB)
    assert not trial.fits
    assert 500 * MB < trial.peak < 1500 * MB
    assert time.monotonic() - started < 60


@pytest.mark.slow
@pytest.mark.covers("R269")
def test_the_command_under_a_cap(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    save_config(run_config(), config)
    words = ["find-batch-size", str(config), "--memory", "450MB", "--most", "1024"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines() if line.split() and line.split()[0].isdigit()]
    fitting = [int(row[0]) for row in rows if "large" not in row]
    failing = [int(row[0]) for row in rows if "large" in row]
    assert fitting and failing
    assert max(fitting) < min(failing) <= max(fitting) * 1.1 + 1
    assert "gradient_accumulation_steps" in result.output


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    save_config(run_config(), config)
    program = "from llm_trainer.cli.app import main; main()"
    command = [sys.executable, "-c", program, "find-batch-size", str(config), "--memory", "4GB"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if "tokens/s" in line:
            break
    below = wait_for_child(child.pid)
    child.send_signal(signal.SIGINT)
    _, problems = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in problems
    wait_for_end(below)


def wait_for_end(process: int) -> None:
    """A process whose parent has gone ends a moment later, or is left for the system to bury."""
    import psutil

    for _ in range(500):
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.02)
    pytest.fail("a trial outlived the program")


def wait_for_child(parent: int) -> int:
    """The number of the process that a process has started."""
    import psutil

    for _ in range(500):
        children = psutil.Process(parent).children()
        if children:
            return int(children[0].pid)
        time.sleep(0.02)
    pytest.fail("no trial was started")


@pytest.mark.covers("R279")
def test_a_target_is_a_file_a_run_or_a_preset(tmp_path: Path) -> None:
    expected = run_config()
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    save_config(expected, tmp_path / "runs" / "mine" / "config.yaml")
    by_file = load_target(str(tmp_path / "runs" / "mine" / "config.yaml"))
    by_name = load_target("mine", ["training.batch_size=3"], runs_dir=tmp_path / "runs")
    assert by_file.model == by_name.model == expected.model
    assert by_name.training.batch_size == 3
    known = load_target("gpt2", runs_dir=tmp_path)
    assert (known.model.d_model, known.model.max_seq_len, known.model.bias) == (768, 1024, True)
    with pytest.raises(UserError, match="no configuration file, run or preset"):
        load_target("gpt5", runs_dir=tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        load_target(str(tmp_path / "missing.yaml"))
    with pytest.raises(ConfigError, match="did you mean"):
        load_target("gpt2", ["training.batchsize=3"], runs_dir=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no config\.yaml"):
        load_target(str(tmp_path / "empty"))


def test_amounts_of_memory() -> None:
    assert parse_memory("8GB") == parse_memory("8 GiB") == parse_memory("8") == parse_memory("8g") == 8 << 30
    assert parse_memory("1.5 gb") == 3 << 29
    assert parse_memory("512MB") == 512 << 20
    for text in ("", "lots", "-1GB", "0GB", "8 apples", "1e3"):
        with pytest.raises(UserError, match="is not an amount of memory"):
            parse_memory(text)


def test_wrong_input_is_one_message() -> None:
    for words in (["find-batch-size", "nope"], ["estimate", "nope"], ["estimate", "gpt2", "--memory", "much"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code != 0
        assert isinstance(result.exception, UserError)  # which the entry point prints without a traceback
