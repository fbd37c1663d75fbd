"""The race to a loss: clocks that stop for everything but training, and one evaluation for both sides."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import characters
import numpy as np
import prose
import pytest
import torch
import torch.nn.functional as F
from curves import Point, Snapshots, draw, first_at_or_below, snapshot, windows_loss
from nanogpt_train import read_times

from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.models import TransformerLM
from llm_trainer.training import Trainer
from tests.benchmarks.conftest import BENCHMARKS

TEXT = "to be, or not to be: that is the question.\n" * 60


def line(text: str, wall: float, cpu: float) -> dict[str, object]:
    return {"text": text, "wall": wall, "cpu": cpu}


def test_evaluation_and_saving_are_off_nanogpts_clock() -> None:
    lines = [
        line("compiling or not", 50.0, 10.0),
        line("step 0: train loss 4.2000, val loss 4.3000", 100.0, 20.0),
        line("iter 0: loss 4.2, time 60000.00ms, mfu -100.00%", 103.0, 25.0),
        line("iter 1: loss 4.1, time 1000.00ms, mfu -100.00%", 104.0, 27.0),
        line("step 2: train loss 3.9000, val loss 4.0123", 150.0, 90.0),
        line("saving checkpoint to out", 151.0, 91.0),
        line("saved", 152.0, 92.0),
        line("iter 2: loss 4.0, time 1000.00ms, mfu 1.00%", 154.5, 95.0),
    ]
    times = read_times(lines)
    assert times.wall == [0.0, 3.0, 4.0, 6.5]
    assert times.cpu == [0.0, 5.0, 7.0, 10.0]
    assert times.estimates == {0: 4.3, 2: 4.0123}


def test_the_evaluation_predicts_every_character_once_within_its_window() -> None:
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(vocab_size=20, d_model=16, n_heads=2, n_layers=1, max_seq_len=5)).eval()
    ids = torch.randint(20, (23,))  # four windows of 5, and two that are left over
    losses = []
    for start in (0, 5, 10, 15):
        logits = model(ids[None, start : start + 5]).logits[0]
        losses.append(F.cross_entropy(logits, ids[start + 1 : start + 6], reduction="none"))
    expected = torch.cat(losses).mean().item()
    found = windows_loss(lambda rows: model(rows).logits, ids, 5, batch=3)
    assert found == pytest.approx(expected, rel=1e-5)


def test_reaching_a_loss_is_not_interpolated() -> None:
    points = [Point(30, 3.0, 6.0, 1.5), Point(10, 1.0, 2.0, 3.0), Point(20, 2.0, 4.0, 2.0)]
    assert first_at_or_below(points, 2.0) == points[2]
    assert first_at_or_below(points, 1.99) == points[0]
    assert first_at_or_below(points, 1.0) is None


def test_the_text_is_written_as_nanogpt_reads_it(tmp_path: Path) -> None:
    assert characters.write_text(TEXT, tmp_path / "text") == len(set(TEXT))
    meta = pickle.loads((tmp_path / "text" / "meta.pkl").read_bytes())
    border = int(len(TEXT) * 0.9)
    for name, part in (("train", TEXT[:border]), ("val", TEXT[border:])):
        ids = np.fromfile(tmp_path / "text" / f"{name}.bin", dtype=np.uint16)
        assert "".join(meta["itos"][index] for index in ids) == part
    assert meta["vocab_size"] == len(set(TEXT))


def test_windows_have_a_target_for_every_position_of_the_block() -> None:
    ids = torch.arange(40)
    batches = characters.RandomWindows(ids, 8, 6, seed=1).batches(0, None)
    seen = set()
    for _ in range(40):
        batch = next(batches)
        assert batch["input_ids"].shape == (6, 9)
        assert bool((batch["input_ids"].diff(dim=1) == 1).all())
        assert bool((batch["labels"][:, 0] == -100).all())
        assert bool((batch["labels"][:, 1:] == batch["input_ids"][:, 1:]).all())
        seen |= set(batch["input_ids"].flatten().tolist())
    assert seen == set(range(40))


def test_saving_stops_our_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Trainer.save_model

    def slow_save(self: Trainer, folder: Path) -> None:
        time.sleep(0.4)
        save(self, folder)

    monkeypatch.setattr(Trainer, "save_model", slow_save)
    model = TransformerLM(ModelConfig(vocab_size=20, d_model=16, n_heads=2, n_layers=1, max_seq_len=9))
    settings = {"max_steps": 5, "batch_size": 2, "device": "cpu", "precision": "fp32", "num_threads": 1}
    clock = Snapshots(tmp_path, steps=2)
    data = characters.RandomWindows(torch.randint(20, (200,)), 8, 2, seed=1)
    trainer = Trainer(model, None, TrainingConfig.from_dict(settings), callbacks=[clock])
    started = time.perf_counter()
    clock.begin()
    trainer.fit(data)
    whole = time.perf_counter() - started
    assert [moment["step"] for moment in clock.moments] == [2, 4, 5]
    walls = [moment["wall"] for moment in clock.moments]
    assert walls == sorted(walls)
    # Three saves of 0.4 s lie in the whole; the first two before the last moment.
    assert walls[-1] < whole - 1.1
    last = TransformerLM.from_pretrained(snapshot(tmp_path, 5)).state_dict()
    assert all(torch.equal(last[name], tensor) for name, tensor in model.state_dict().items())


def run_of(*points: tuple[int, float, float, float]) -> characters.Run:
    return characters.Run([Point(*point) for point in points])


def test_a_seed_that_never_arrives_is_not_left_out() -> None:
    theirs = run_of((1000, 40.0, 80.0, 2.0), (2000, 80.0, 160.0, 1.9))
    fast = run_of((100, 5.0, 10.0, 2.1), (200, 10.0, 16.0, 1.88), (300, 15.0, 24.0, 1.8))
    never = run_of((100, 5.0, 10.0, 2.1))
    equal = run_of((1600, 79.0, 158.0, 1.6))
    arrived = characters.summary({"nanoGPT": [theirs], "ours": [fast], "ours, same time": [equal]})
    assert arrived["seeds"][0]["our_seconds_to_it"] == 10.0
    assert arrived["times_faster"] == 8.0
    assert arrived["times_less_processor_time"] == 10.0
    assert arrived["loss_gain_in_equal_time"] == pytest.approx(0.3)
    both = {"nanoGPT": [theirs] * 2, "ours": [fast, never], "ours, same time": [equal] * 2}
    assert characters.summary(both)["times_faster"] is None


def test_held_out_text_is_cut_at_whole_characters() -> None:
    assert prose._up_to(["abc", "dééf", "g"], 6) == ["abc", "dé"]
    assert prose._up_to(["abc", "d"], 100) == ["abc", "d"]


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [Point(1, 1.0, 1.0, 3.0), Point(2, 2.0, 2.0, 2.0)]
    draw(tmp_path / "curves.png", [("Prose", "bits per byte", {"ours": [points, points], "usual": [points]})])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["characters", "prose"])
def test_quick_race_runs_as_a_person_calls_it(part: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    command = [sys.executable, str(BENCHMARKS / "time_to_loss.py"), "--quick", "--parts", part, "--text", str(text)]
    command += ["--seeds", "1", "--minutes", "0.02", "--threads", "1", "--plot", str(tmp_path / "curves.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])["results"][part]
    if part == "characters":
        points = result["runs"]["ours"][0]["points"]
        assert [point["step"] for point in points] == [10, 20]
        assert points[-1]["loss"] < points[0]["loss"] < np.log(len(set(TEXT))) + 0.3
        assert "skipped nanoGPT" in done.stdout
    else:
        seed = result["seeds"][0]
        assert seed["gain"] == pytest.approx(seed["usual_bits_per_byte"] - seed["our_bits_per_byte"], abs=1e-4)
        assert 0 < seed["our_bits_per_byte"] < 9
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
