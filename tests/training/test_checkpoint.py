"""Checkpoints: what is in them, what is refused, what survives."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from llm_trainer.common.errors import CheckpointError, CorruptionError, UserError
from llm_trainer.training import Trainer, load_checkpoint, save_checkpoint
from llm_trainer.training import checkpoint as checkpoint_module
from llm_trainer.training.checkpoint import latest_checkpoint, list_checkpoints, verify_checkpoint
from llm_trainer.training.interrupt import SAME_PRESS_SECONDS, InterruptGuard
from llm_trainer.training.optimizer import create_optimizer, set_learning_rate
from tests.training.helpers import ListLoader, Recorder, config, tiny_model


def trained(tmp_path: Path, steps: int = 4, **changes: object) -> Trainer:
    trainer = Trainer(tiny_model(), config=config(max_steps=steps, save_steps=1, **changes), run_dir=tmp_path)
    trainer.fit(ListLoader())
    return trainer


@pytest.mark.covers("R295", "R300", "R304")
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon", "sgd"])
def test_save_and_load_restores_every_tensor(tmp_path: Path, optimizer: str) -> None:
    trainer = trained(tmp_path, optimizer=optimizer)
    path = save_checkpoint(trainer.model, trainer.optimizer, 7, directory=tmp_path / "mine", state={"note": [1, "x"]})
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
    model = tiny_model(seed=5)
    fresh = create_optimizer(model, trainer.config)
    loaded = load_checkpoint(path, model, fresh)
    assert (loaded.step, loaded.state) == (7, {"note": [1, "x"]})
    for mine, theirs in zip(model.parameters(), trainer.model.parameters()):
        assert torch.equal(mine, theirs)
    batch = next(ListLoader(seed=9).batches(0, 4))
    for network, update in ((model, fresh), (trainer.model, trainer.optimizer)):
        set_learning_rate(update, 1.0)
        network.zero_grad()
        network(**batch).loss.backward()
        update.step()
    for mine, theirs in zip(model.parameters(), trainer.model.parameters()):
        assert torch.equal(mine, theirs)


@pytest.mark.covers("R298", "R301")
def test_interrupted_half_way_equals_uninterrupted(tmp_path: Path) -> None:
    def run(folder: str, steps: int, resume: bool) -> Trainer:
        settings = config(max_steps=20, save_steps=5, use_ema=True, logging_steps=1)
        recorder = Recorder()
        trainer = Trainer(tiny_model(dropout=0.1), config=settings, run_dir=tmp_path / folder, callbacks=[recorder])
        if steps < 20:
            trainer._tell = lambda event, *a: (  # type: ignore[method-assign]
                setattr(trainer._guard, "requested", "SIGTERM") if trainer.state.step == steps else None
            )
        trainer.fit(ListLoader(), resume=resume)
        return trainer

    whole = run("whole", 20, False)
    interrupted = run("parts", 9, False)
    assert 9 <= interrupted.state.step < 20
    resumed = run("parts", 20, True)
    assert resumed.state.step == 20
    assert resumed.state.sequences == whole.state.sequences
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters()):
        assert torch.equal(mine, theirs)
    for name, average in whole.ema.averages.items():
        assert torch.equal(average, resumed.ema.averages[name])


@pytest.mark.covers("R299", "R301")
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_newest_checkpoint_falls_back_with_a_message(tmp_path: Path, damage: str) -> None:
    trained(tmp_path, keep_last=3)
    newest = tmp_path / "checkpoints" / "step-000004"
    file = newest / ("manifest.json" if damage == "manifest" else "model.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage in ("truncate", "manifest"):
        file.write_bytes(data[: len(data) // 2])
    else:
        file.unlink()
    with pytest.raises(CorruptionError):
        verify_checkpoint(newest)
    recorder = Recorder()
    again = Trainer(tiny_model(), config=config(max_steps=4), run_dir=tmp_path, callbacks=[recorder])
    again.fit(ListLoader(), resume=True)
    assert "step-000004" in recorder.messages[0] and "falling back" in recorder.messages[0]
    assert recorder.messages[1].startswith("resumed step-000003")


@pytest.mark.covers("R214", "R299")
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trained(tmp_path)
    before = list_checkpoints(tmp_path / "checkpoints")

    def full(path: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "fsync_file", full)
    with pytest.raises(UserError, match="the disk is full"):
        save_checkpoint(trainer.model, trainer.optimizer, 9, directory=tmp_path / "checkpoints")
    assert sorted((tmp_path / "checkpoints").iterdir()) == before
    assert latest_checkpoint(tmp_path / "checkpoints", on_damage=pytest.fail) == before[-1]


def test_too_little_space_is_said_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="not enough disk space for the checkpoint of step 3"):
        save_checkpoint(tiny_model(), None, 3, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_refused_by_name(tmp_path: Path) -> None:
    trained(tmp_path)
    path = list_checkpoints(tmp_path / "checkpoints")[-1]
    with pytest.raises(CheckpointError, match="lacks blocks"):
        load_checkpoint(path, tiny_model(n_layers=3))
    with pytest.raises(CheckpointError, match=r"is \[61, 32\] there and \[99, 32\] here"):
        load_checkpoint(path, tiny_model(vocab_size=99))


@pytest.mark.covers("R225")
def test_other_data_is_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    loader = ListLoader()
    loader.fingerprint = "other"
    with pytest.raises(CheckpointError, match="was trained on other data"):
        Trainer(tiny_model(), config=config(), run_dir=tmp_path).fit(loader, resume=True)


@pytest.mark.covers("R307")
def test_every_checkpoint_carries_time_and_loss(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    state = json.loads((list_checkpoints(tmp_path / "checkpoints")[-1] / "state.json").read_text())
    assert state["step"] == 4 and state["time"] > 1.6e9
    assert state["state"]["loss"] == trainer.loss


@pytest.mark.covers("R304")
def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trained(tmp_path)
    for file in (tmp_path / "checkpoints").rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        if file.suffix == ".safetensors":
            length = int.from_bytes(data[:8], "little")
            assert isinstance(json.loads(data[8 : 8 + length]), dict)
        elif file.is_file():
            assert isinstance(json.loads(data), dict)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from tests.training.helpers import ListLoader, config, tiny_model
from llm_trainer.training import Callback, Trainer

class Started(Callback):
    def on_step(self, trainer):
        if trainer.state.step == 3:
            print("started", flush=True)

settings = config(max_steps=10**6, save_steps=10**6)
trainer = Trainer(tiny_model(), config=settings, run_dir={run!r}, callbacks=[Started()])
result = trainer.fit(ListLoader())
print(result.outcome, result.step, flush=True)
"""


@pytest.mark.covers("R257")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    root = Path(__file__).parents[2]
    code = SCRIPT.format(tests=str(root), run=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        outcome, step = process.stdout.readline().split()
    assert process.wait(30) == 0
    assert outcome == "interrupted"
    assert latest_checkpoint(tmp_path / "checkpoints", on_damage=pytest.fail).name == f"step-{int(step):06d}"


@pytest.mark.covers("R257")
def test_a_second_ctrl_c_stops_at_once() -> None:
    pid = os.fork()
    if pid == 0:
        with InterruptGuard():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # the same press, told twice by a launcher
            time.sleep(SAME_PRESS_SECONDS + 0.1)
            os.write(1, b"still here")
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGINT
