"""A dead run never looks alive; a living one always does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_trainer.common.errors import TrainingError
from llm_trainer.monitoring.status import RunStatus, read_status

_TRAINS_FOREVER = (
    "import sys, time\n"
    "from llm_trainer.monitoring.status import RunStatus\n"
    "status = RunStatus(sys.argv[1], interval=0.05)\n"
    "status.step = 42\n"
    "status.start()\n"
    "print('started', flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.fixture
def training_process(tmp_path: Path):  # type: ignore[no-untyped-def]
    child = subprocess.Popen([sys.executable, "-c", _TRAINS_FOREVER, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.kill()
    child.wait()


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_run_is_seen_as_dead_at_once(
    tmp_path: Path, training_process: subprocess.Popen[bytes], reaped: bool
) -> None:
    view = read_status(tmp_path)
    assert (view.state, view.step, view.pid) == ("running", 42, training_process.pid)
    os.kill(training_process.pid, signal.SIGKILL)
    if reaped:
        training_process.wait()
    else:
        os.waitid(os.P_PID, training_process.pid, os.WEXITED | os.WNOWAIT)  # leaves a zombie, which exists but is dead
    assert read_status(tmp_path).state == "died"


def test_a_second_trainer_in_the_same_folder_is_refused(
    tmp_path: Path, training_process: subprocess.Popen[bytes]
) -> None:
    second = RunStatus(tmp_path)
    with pytest.raises(TrainingError, match=f"process {training_process.pid}"):
        second.start()
    second.finish("failed")  # what never started must not end the other one's run
    assert read_status(tmp_path).state == "running"


def test_a_process_that_took_over_the_number_is_not_the_run(tmp_path: Path) -> None:
    status = RunStatus(tmp_path)
    status.start()
    assert read_status(tmp_path).state == "running"
    saved = json.loads((tmp_path / "status.json").read_text())
    status.finish("finished")
    saved["process_started"] -= 1000
    (tmp_path / "status.json").write_text(json.dumps(saved))
    assert read_status(tmp_path).state == "died"


def test_a_heartbeat_goes_on_and_an_old_one_is_death(tmp_path: Path) -> None:
    status = RunStatus(tmp_path, interval=0.02)
    status.start()
    first = read_status(tmp_path)
    status.step = 7
    deadline = time.monotonic() + 10
    while read_status(tmp_path).step != 7 and time.monotonic() < deadline:
        time.sleep(0.02)
    later = read_status(tmp_path)
    assert first.time is not None and later.time is not None
    assert later.step == 7 and later.time > first.time
    assert read_status(tmp_path, now=lambda: time.time() + 60).state == "died"
    assert read_status(tmp_path, now=lambda: time.time() - 60).state == "died"
    status.finish("interrupted", "stopped by SIGTERM")
    ended = read_status(tmp_path, now=lambda: time.time() + 1e6)
    assert (ended.state, ended.message) == ("interrupted", "stopped by SIGTERM")


def test_on_another_machine_only_the_heartbeat_counts(tmp_path: Path) -> None:
    status = RunStatus(tmp_path)
    status.start()
    saved = json.loads((tmp_path / "status.json").read_text())
    status.finish("finished")
    saved.update(token="of another machine", pid=999_999_999)
    (tmp_path / "status.json").write_text(json.dumps(saved))
    assert read_status(tmp_path).state == "running"
    assert read_status(tmp_path, now=lambda: time.time() + 31).state == "died"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "running"}', '{"state": "dancing", "time": 1}', "\x00"])
def test_a_damaged_status_is_unknown(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json").write_text(content)
    assert read_status(tmp_path).state == "unknown"


def test_a_heartbeat_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = RunStatus(tmp_path, interval=0.02)
    status.start()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("llm_trainer.monitoring.status.write_json", full)
        deadline = time.monotonic() + 10
        while "No space left" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "No space left" in caplog.text
    status.finish("finished")
    assert read_status(tmp_path).state == "finished"
