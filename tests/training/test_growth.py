"""Training while the cache grows: nothing twice, nothing left out, and a learning rate that never jumps."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llm_trainer.data import TokenCache, build_cache
from llm_trainer.data.growing import GrowingCache, GrowingLoader
from llm_trainer.data.manifest import chunk_files
from llm_trainer.data.plan import PLAN
from llm_trainer.training import Trainer
from llm_trainer.training.callbacks import Callback
from llm_trainer.training.growth import estimate_full_dataset_steps, warn_about_small_cache
from llm_trainer.training.horizon import TrainState
from tests.byte_tokenizer import ByteTokenizer
from tests.data.test_growing import SEQ_LEN, texts
from tests.training.helpers import config, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.covers("R221", "R223")
def test_the_published_step_counts_come_out_exactly():
    options = {"sequences_per_step": 12 * 6, "num_epochs": 5, "epoch_fraction": 0.8}
    counts = [estimate_full_dataset_steps(n, **options) for n in (352_217, 472_240, 2_500_000)]
    assert counts == [19_567, 26_235, 138_888]


@pytest.mark.covers("R222", "R223")
def test_a_cache_smaller_than_its_warm_up_is_told():
    warmup = round(0.025 * 138_888)
    assert warmup == 3_472
    assert warn_about_small_cache(warmup, 19_567) is None
    assert "gives 2,000 steps" in warn_about_small_cache(warmup, 2_000)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    build_cache(texts(), ByteTokenizer(), folder, seq_len=SEQ_LEN, unit_bytes=700, source_fingerprint="texts")
    assert len(chunk_files(folder)) >= 20
    return folder


def copy(complete: Path, folder: Path, units: range) -> Path:
    folder.mkdir(exist_ok=True)
    shutil.copy(complete / PLAN, folder)
    for path in chunk_files(complete)[units.start : units.stop]:
        shutil.copy(path, folder)
    return folder


class Recording(GrowingLoader):
    """Remembers what was served to the loop."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.served: list[tuple[int, ...]] = []

    def batches(self, start_sequence: int = 0, stop_sequence: int | None = None) -> Iterator:
        for batch in super().batches(start_sequence, stop_sequence):
            self.served += [tuple(row.tolist()) for row in batch["input_ids"]]
            yield batch


class Watch(Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []
        self.totals: list[int] = []
        self.said: list[str] = []

    def on_step(self, trainer: Trainer) -> None:
        self.rates.append(trainer.optimizer.param_groups[0]["lr"])
        self.totals.append(trainer.state.total_steps)

    def on_message(self, trainer: Trainer, text: str) -> None:
        self.said.append(text)


def loader_of(folder: Path, **options) -> Recording:
    return Recording(GrowingCache.open_growing(folder), 4, seed=1, **options)


def all_rows(folder: Path) -> Counter:
    cache = TokenCache.open(folder)
    return Counter(tuple(s.tokens.tolist()) + (0,) * (SEQ_LEN - len(s.tokens)) for s in cache.read(range(len(cache))))


def run(folder: Path, watch: Watch, loader: Recording, **changes) -> Trainer:
    settings = config(max_steps=None, num_epochs=1, learning_rate=1e-3, lr_scheduler="cosine", **changes)
    settings.warmup_steps = None
    trainer = Trainer(tiny_model(vocab_size=257, max_seq_len=SEQ_LEN), None, settings, callbacks=[watch])
    trainer.fit(loader)
    return trainer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.covers("R220", "R236")
def test_packing_in_one_process_and_training_in_another_serve_each_sequence_exactly_once(complete, tmp_path):
    class Slow(ByteTokenizer):
        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            time.sleep(0.15)
            return super().encode_batch(texts)

    folder = tmp_path / "cache"
    child = os.fork()
    if child == 0:
        try:
            build_cache(texts(), Slow(), folder, seq_len=SEQ_LEN, unit_bytes=700, source_fingerprint="texts")
        finally:
            os._exit(0)
    while not folder.exists() or len(chunk_files(folder)) < 2:
        time.sleep(0.01)
    watch, loader = Watch(), loader_of(folder)
    trainer = run(folder, watch, loader)
    os.waitpid(child, 0)
    assert len(loader.segments) > 2, "the cache did not grow while training"
    assert {segment.number for segment in loader.segments} == {0}
    assert len(loader.cache.units) == len(chunk_files(complete)) >= 20
    assert Counter(loader.served) == all_rows(complete)
    assert trainer.state.sequences == len(TokenCache.open(complete))
    assert watch.totals[-1] == trainer.state.step > watch.totals[0]
    assert any("the cache has grown" in text for text in watch.said)


@pytest.mark.covers("R222", "R224")
def test_the_learning_rate_has_no_step_when_the_cache_grows(complete, tmp_path, monkeypatch):
    """While training, someone adds all other chunks at once."""
    folder = copy(complete, tmp_path / "cache", range(5))
    monkeypatch.setattr(GrowingCache, "is_being_packed", lambda cache: True)
    total = len(chunk_files(complete))

    class Adds(Watch):
        def on_step(self, trainer: Trainer) -> None:
            super().on_step(trainer)
            if trainer.state.step == 3:
                copy(complete, folder, range(5, total))

    watch, loader = Adds(), loader_of(folder)
    trainer = run(folder, watch, loader)
    assert len(loader.segments) == 2
    assert watch.totals[0] < watch.totals[-1] == len(watch.rates)
    peak = max(watch.rates)
    largest = max(abs(a - b) for a, b in zip(watch.rates, watch.rates[1:]))
    usual = peak * 3.2 / 2 / len(watch.rates)  # the steepest part of a cosine falls by pi / 2 per length
    assert largest < max(1.5 * usual, peak / max(1, trainer.state.warmup_steps) * 1.01)
    assert watch.rates[-1] < 0.15 * peak


@pytest.mark.covers("R224")
def test_a_run_that_ended_goes_on_when_there_is_more(complete, tmp_path, monkeypatch):
    monkeypatch.setattr("llm_trainer.data.growing.QUIET_SECONDS", 0.0)  # nobody packs: do not wait
    folder = copy(complete, tmp_path / "cache", range(6))
    settings = config(max_steps=None, num_epochs=1, learning_rate=1e-3)

    def fit(resume: bool) -> tuple[Trainer, Recording, Watch]:
        watch, loader = Watch(), loader_of(folder)
        model = tiny_model(vocab_size=257, max_seq_len=SEQ_LEN)
        trainer = Trainer(model, None, settings, run_dir=tmp_path / "run", callbacks=[watch])
        trainer.fit(loader, resume=resume)
        return trainer, loader, watch

    first, before, _ = fit(resume=False)
    assert first.state.sequences == len(before.cache)
    copy(complete, folder, range(6, len(chunk_files(complete))))
    second, after, watch = fit(resume=True)
    assert Counter(before.served) + Counter(after.served) == all_rows(complete)
    assert second.state.step > first.state.step
    assert second.state.warmup_steps == first.state.warmup_steps
    assert any("has grown since the checkpoint" in text for text in watch.said)


@pytest.mark.covers("R220")
def test_stopping_and_resuming_in_the_middle_changes_nothing(complete, tmp_path, monkeypatch):
    """The same growth, with and without a break: bit-identical weights."""
    monkeypatch.setattr("llm_trainer.data.growing.QUIET_SECONDS", 0.0)  # nobody packs: do not wait

    def trained(name: str, stops: list[int | None]) -> dict[str, torch.Tensor]:
        folder = copy(complete, tmp_path / name, range(8))
        for stop in stops:
            settings = config(max_steps=None, num_epochs=1, learning_rate=1e-3, save_steps=4)

            class Stops(Callback):
                def on_step(self, trainer: Trainer, stop=stop, folder=folder) -> None:
                    if trainer.state.step == 8:
                        copy(complete, folder, range(8, 14))
                    if trainer.state.step == stop:
                        trainer._guard.requested = "a test"

            model = tiny_model(vocab_size=257, max_seq_len=SEQ_LEN)
            trainer = Trainer(model, None, settings, run_dir=tmp_path / f"{name}-run", callbacks=[Stops()])
            trainer.fit(loader_of(folder), resume=stop != stops[0])
        return dict(model.state_dict())

    straight = trained("straight", [None])
    broken = trained("broken", [4, None])
    assert all(torch.equal(value, broken[name]) for name, value in straight.items())


def test_a_schedule_that_is_stretched_goes_on_from_where_it_is():
    state = TrainState(schedule_steps=100)
    state.aim_schedule(100)
    state.step = 50
    assert state.schedule_position == (50.0, 100)
    state.aim_schedule(150)
    assert state.schedule_position == (50.0, 100)
    state.step = 100
    assert state.schedule_position == (75.0, 100)
    state.step = 150
    assert state.schedule_position == (100.0, 100)
    assert TrainState(step=7, total_steps=9).schedule_position == (7, 9)
