"""Metrics: one line a step that survives a kill, TensorBoard and W&B beside it, cheap enough not to be felt."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.monitoring import metrics
from llm_trainer.monitoring.metrics import MetricsLogger, log_metrics, read_metrics, read_metrics_log
from llm_trainer.monitoring.runs import export_log


def steps_of(run_dir: Path) -> list[int]:
    return [record["step"] for record in read_metrics(run_dir)]


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    seen: dict[str, Any] = {"logged": [], "init": None, "finished": 0}
    module = types.ModuleType("wandb")
    module.init = lambda **settings: seen.update(init=settings)  # type: ignore[attr-defined]
    module.log = lambda values, step=None: seen["logged"].append((step, values))  # type: ignore[attr-defined]
    module.finish = lambda: seen.update(finished=seen["finished"] + 1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return seen


@pytest.mark.covers("R313", "R314")
def test_what_is_logged_is_read_back(tmp_path: Path) -> None:
    values = {"train/loss": 5.25, "train/learning_rate": 6e-4, "train/grad_norm": 0.5, "system/memory_rss": 2**40 + 1}
    with MetricsLogger(tmp_path, []) as logger:
        logger.log(10, values)
        logger.log(10, {"validation/loss": torch.tensor(5.5)})
    log = read_metrics_log(tmp_path)
    assert log.records[0]["step"] == 10
    assert abs(log.records[0]["time"] - time.time()) < 60
    assert {name: log.records[0][name] for name in values} == values
    assert log.series("validation/loss") == [(10, 5.5)]
    assert log.by_step()[0]["validation/loss"] == 5.5
    assert log.by_step()[0]["train/loss"] == 5.25


def test_a_value_that_is_no_number_keeps_the_file_valid_json(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path, []) as logger:
        logger.log(1, {"train/loss": math.nan, "train/grad_norm": math.inf})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail)["train/loss"] is None
    assert read_metrics_log(tmp_path).series("train/loss") == []


@pytest.mark.covers("R316")
def test_a_torn_last_line_is_left_out_and_mended_on_resume(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path, []) as logger:
        for step in (1, 2, 3):
            logger.log(step, {"train/loss": 9.0 - step})
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1])):
        path.write_bytes(whole[:-cut])
        before = steps_of(tmp_path)
        assert before == ([1, 2, 3] if cut == 1 else [1, 2])
        with MetricsLogger(tmp_path, []) as logger:
            logger.log(4, {"train/loss": 5.0})
        log = read_metrics_log(tmp_path)
        assert [record["step"] for record in log.records] == [*before, 4]
        assert log.damaged_lines == 0


@pytest.mark.covers("R316")
def test_resume_after_kill_has_every_step_once(tmp_path: Path) -> None:
    program = (
        "import sys, itertools\n"
        "from llm_trainer.monitoring.metrics import MetricsLogger\n"
        "logger = MetricsLogger(sys.argv[1], [])\n"
        "for step in itertools.count(1):\n"
        "    logger.log(step, {'train/loss': 1.0 / step})\n"
        "    print(step, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(50):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
    assert len(steps_of(tmp_path)) >= 50
    with MetricsLogger(tmp_path, []) as logger:
        logger.truncate_after(40)
        for step in (41, 42):
            logger.log(step, {"train/loss": 0.5})
    document = json.loads(json.dumps(export_log(tmp_path)))
    assert [entry["step"] for entry in document["steps"]] == list(range(1, 43))
    assert document["steps"][-1]["train/loss"] == 0.5


def test_damaged_lines_in_the_middle_are_counted_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1}\n\x00\x00\n[]\n{"a": 2}\n{"step": 2, "a": 3}\n{"st')
    log = read_metrics_log(tmp_path)
    assert log.series("a") == [(1, 1), (2, 3)]
    assert log.damaged_lines == 3


@pytest.mark.covers("R309")
def test_tensorboard_reads_our_events(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with MetricsLogger(tmp_path) as logger:  # TensorBoard is the default where it is installed
        for step in (1, 2, 3, 4):
            logger.log(step, {"train/loss": 10.0 - step, "train/learning_rate": 0.5})
        logger.truncate_after(2)
        logger.log(3, {"train/loss": 1.0, "train/learning_rate": 0.25})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/learning_rate"}
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 9.0), (2, 8.0), (3, 1.0)]


@pytest.mark.covers("R310", "R311", "R312")
def test_wandb_gets_exactly_the_documented_keys(tmp_path: Path, fake_wandb: dict[str, Any]) -> None:
    with MetricsLogger(tmp_path / "my_run", ["wandb"], config={"d_model": 64}) as logger:
        logger.log_metrics(torch.tensor(2.0), 7, 1e-3)
    assert fake_wandb["init"]["project"] == "custom-llm-training"
    assert fake_wandb["init"]["config"] == {"d_model": 64}
    step, values = fake_wandb["logged"][0]
    assert step == 7
    assert values == {
        "train/loss": 2.0,
        "train/perplexity": pytest.approx(math.exp(2)),
        "train/learning_rate": 1e-3,
        "train/step": 7,
    }
    assert fake_wandb["finished"] == 1


@pytest.mark.covers("R311")
def test_log_metrics_writes_to_the_run_that_is_open(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run is being logged"):
        log_metrics(1.0, 1)
    with MetricsLogger(tmp_path, []):
        log_metrics(3.0, 5)
        log_metrics(2.0, 6, 1e-4)
    first, second = read_metrics(tmp_path)
    assert (first["step"], first["train/loss"]) == (5, 3.0)
    assert "train/learning_rate" not in first
    assert second["train/learning_rate"] == 1e-4
    assert metrics.perplexity(1e6) == math.inf


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_asked_for_but_not_installed_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install 'llm-trainer\[tracking\]'"):
        MetricsLogger(tmp_path, [package])


def test_wandb_that_cannot_start_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("wandb")
    module.Error = type("Error", (Exception,), {})  # type: ignore[attr-defined]

    def refuse(**settings: Any) -> None:
        raise module.Error("api_key not configured")

    module.init = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(UserError, match="api_key not configured") as caught:
        MetricsLogger(tmp_path, ["wandb"])
    assert "WANDB_MODE=offline" in str(caught.value)


def test_unknown_destination_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        MetricsLogger(tmp_path, ["tensorbord"])


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="disk is full"), MetricsLogger(tmp_path, []) as logger:
        logger.log(1, {"train/loss": 1.0})


@pytest.mark.covers("R320")
def test_logging_costs_less_than_a_hundredth_of_a_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    values = {f"train/value_{index}": index * 0.1 for index in range(12)}
    with MetricsLogger(tmp_path, ["tensorboard"]) as logger:
        costs = []
        for step in range(200):
            start = time.perf_counter()
            logger.log(step, values)
            costs.append(time.perf_counter() - start)
    # The median: other processes on the machine may delay single writes. 1 % of a step of 50 ms.
    assert sorted(costs)[100] < 0.01 * 0.050
