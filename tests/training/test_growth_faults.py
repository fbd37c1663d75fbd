"""Growth at its edges: where a run would end, wait or aim wrongly."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.leases import packer_at_work
from llm_trainer.data import TokenCache, build_cache
from llm_trainer.data.growing import GrowingCache
from llm_trainer.data.manifest import chunk_files
from llm_trainer.data.plan import PLAN
from llm_trainer.training import Trainer
from llm_trainer.training.horizon import TrainState
from llm_trainer.training.preparation import make_loader
from llm_trainer.training.scheduler import learning_rate_factor
from tests.byte_tokenizer import ByteTokenizer
from tests.data.test_growing import SEQ_LEN, texts
from tests.training.helpers import config, tiny_model
from tests.training.test_growth import Watch, all_rows, copy, loader_of

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    build_cache(texts(120), ByteTokenizer(), folder, seq_len=SEQ_LEN, unit_bytes=500, source_fingerprint="texts")
    assert len(chunk_files(folder)) >= 6
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_trainer.data.growing.QUIET_SECONDS", 0.0)
    monkeypatch.setattr("llm_trainer.training.growth.WAIT_SECONDS", 0.01)


class Adds(Watch):
    """Copies more chunks into the cache after a step."""

    def __init__(self, complete: Path, folder: Path, at: dict[int, range]) -> None:
        super().__init__()
        self.arguments = complete, folder, at

    def on_step(self, trainer: Trainer) -> None:
        super().on_step(trainer)
        complete, folder, at = self.arguments
        if trainer.state.step in at:
            copy(complete, folder, at[trainer.state.step])


def train(loader, *callbacks, run_dir: Path | None = None, resume: bool = False, **changes) -> Trainer:
    values = {"max_steps": None, "num_epochs": 1, "learning_rate": 1e-3, "warmup_ratio": 0.0, **changes}
    settings = config(**values)
    settings.warmup_steps = changes.get("warmup_steps")
    model = tiny_model(vocab_size=257, max_seq_len=SEQ_LEN)
    trainer = Trainer(model, None, settings, run_dir=run_dir, callbacks=list(callbacks))
    trainer.fit(loader, resume=resume)
    return trainer


@pytest.mark.covers("R220")
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_run_that_would_end_with_a_whole_step_looks_for_more_before_it(complete, tmp_path, accumulation):
    """Where the steps divide the sequences, the run is over with its last step, and nobody would look again."""
    folder = copy(complete, tmp_path / "cache", range(2))
    loader = loader_of(folder)
    loader.grow(loader.cache.arrived())
    size = loader.known
    per_step = next(n for n in range(8, 1, -1) if size % n == 0)
    loader.batch_size = per_step
    steps = size // per_step
    watch = Adds(complete, folder, {steps - 1: range(2, 6)})
    trainer = train(loader, watch, batch_size=per_step, gradient_accumulation_steps=1)
    assert trainer.state.sequences == len(loader.cache) > size
    assert Counter(loader.served).total() >= len(loader.cache)


@pytest.mark.covers("R220", "R224")
def test_a_fraction_of_an_epoch_is_one_of_all_that_has_come(complete, tmp_path):
    """The run must not end at four fifths of the two chunks that were there when it began."""
    folder = copy(complete, tmp_path / "cache", range(2))
    loader = loader_of(folder, epoch_fraction=0.8)
    watch = Adds(complete, folder, {3: range(2, len(chunk_files(complete)))})
    (tmp_path / "cache" / "manifest.json").unlink(missing_ok=True)
    trainer = train(loader, watch)
    assert loader.cache.complete
    assert trainer.state.sequences == round(0.8 * len(loader.cache))
    served = Counter(loader.served)
    assert max(served.values()) == 1


@pytest.mark.covers("R220", "R224")
def test_growth_in_the_second_of_three_epochs(complete, tmp_path):
    """The run gets as long as three epochs of everything, and what came late is served in each pass after it came."""
    folder = copy(complete, tmp_path / "cache", range(3))
    loader = loader_of(folder)
    loader.grow(loader.cache.arrived())
    first = loader.known
    watch = Adds(complete, folder, {first // 4 + 3: range(3, 5)})
    trainer = train(loader, watch, num_epochs=3)
    grown = len(loader.cache)
    assert grown > first
    assert trainer.state.sequences == 3 * grown
    consumed = loader.indices(0, 3 * grown)
    times = Counter(consumed.tolist())
    assert [(s.number, s.first) for s in loader.segments[:4]] == [(0, 0), (1, 0), (1, 3), (2, 0)]
    assert set(times) == set(range(grown))
    assert all(3 <= times[index] <= 4 for index in range(first))
    assert all(2 <= times[index] <= 3 for index in range(first, grown))


@pytest.mark.covers("R220")
def test_a_finished_cache_by_its_folder_trains_like_the_cache_itself(complete):
    """Not a bit of difference: weights, learning rates, steps."""
    settings = {"num_epochs": 2, "warmup_ratio": 0.1, "batch_size": 4, "seed": 1}
    watches = Watch(), Watch()
    growing = train(loader_of(complete), watches[0], **settings)
    cache = TokenCache.open(complete)
    plain_config = config(max_steps=None, **{**settings, "learning_rate": 1e-3})
    plain = train(make_loader(cache, plain_config), watches[1], **settings)
    assert watches[0].rates == watches[1].rates
    weights = dict(plain.model.state_dict())
    assert all(torch.equal(value, weights[name]) for name, value in growing.model.state_dict().items())


def test_a_timed_run_aims_at_the_end_of_its_time(complete, tmp_path):
    """It knows its speed after some steps; a schedule fixed at the first guess would be far off."""
    for folder in (complete, copy(complete, tmp_path / "cache", range(4))):
        watch = Watch()
        trainer = train(loader_of(folder), watch, num_epochs=None, max_minutes=0.02, lr_scheduler="linear")
        assert trainer.state.schedule_position == (trainer.state.step, trainer.state.total_steps)
        assert watch.rates[-1] < 0.35 * max(watch.rates)


@pytest.mark.covers("R222", "R224")
@pytest.mark.parametrize("scheduler", ["cosine", "linear", "wsd", "polynomial", "inverse_sqrt", "constant"])
def test_the_warm_up_of_the_whole_text_takes_as_many_steps_on_a_part_of_it(complete, tmp_path, scheduler):
    """Nobody is packing: the run will end with the part, and yet rises as slowly as one on everything."""
    rates = []
    everything = train(loader_of(complete), watch := Watch(), lr_scheduler=scheduler, warmup_ratio=0.2)
    rates.append(watch.rates)
    folder = copy(complete, tmp_path / "cache", range(4))
    part = train(loader_of(folder), watch := Watch(), lr_scheduler=scheduler, warmup_ratio=0.2)
    rates.append(watch.rates)
    warm = part.state.warmup_steps
    assert warm == pytest.approx(everything.state.warmup_steps, abs=1)
    assert warm > 0.25 * part.state.step
    assert rates[1][:warm] == pytest.approx([1e-3 * step / warm for step in range(warm)])
    if scheduler not in ("constant", "inverse_sqrt"):
        assert rates[1][-1] < 0.5e-3  # and still comes down


@pytest.mark.covers("R224")
@pytest.mark.parametrize("scheduler", ["cosine", "linear", "wsd", "polynomial", "inverse_sqrt", "constant"])
@pytest.mark.parametrize("grows_at", [5, 30, 60, 95])
def test_no_schedule_jumps_when_the_end_moves(scheduler, grows_at):
    """In the warm-up, after it, in the middle, near the end: the next rate is the one it would have been."""
    settings = config(lr_scheduler=scheduler, max_steps=100, warmup_steps=20)
    state = TrainState(schedule_steps=100, warmup_steps=20)
    state.aim_schedule(100)

    def rate() -> float:
        return learning_rate_factor(settings, *state.schedule_position, state.warmup_steps)

    rates = []
    for step in range(300):
        state.step = step
        if step == grows_at:
            before = rate()
            state.aim_schedule(300)
            assert rate() == pytest.approx(before, abs=1e-12)
        rates.append(rate())
    assert max(abs(a - b) for a, b in pairwise(rates)) <= 0.0501 + (scheduler == "wsd") * 0.05
    assert rates[:20] == pytest.approx([step / 20 for step in range(20)])


@pytest.mark.covers("R222", "R223")
def test_the_trainer_warns_when_the_warm_up_is_longer_than_the_run(complete, tmp_path):
    watch = Watch()
    folder = copy(complete, tmp_path / "cache", range(1))
    trainer = train(loader_of(folder), watch, warmup_ratio=0.5)
    assert any(f"gives {trainer.state.step:,} steps, and the warm-up" in text for text in watch.said)
    watch = Watch()
    train(loader_of(complete), watch, warmup_ratio=0.5)
    assert not any("the cache is small" in text for text in watch.said)


def test_a_run_waits_for_the_first_chunk_while_somebody_packs(complete, tmp_path):
    folder = copy(complete, tmp_path / "cache", range(0))
    loader, watch = loader_of(folder), Watch()

    def pack() -> None:
        with packer_at_work(folder):
            begun.set()
            time.sleep(0.1)
            copy(complete, folder, range(len(chunk_files(complete))))

    begun = threading.Event()
    packer = threading.Thread(target=pack)
    packer.start()
    begun.wait()
    train(loader, watch)
    packer.join()
    assert any(text.startswith("waiting for the packer: 0 of") for text in watch.said)
    assert Counter(loader.served) == all_rows(complete)
    with pytest.raises(DataError, match="holds no chunk yet"):
        train(loader_of(copy(complete, tmp_path / "empty", range(0))))


def test_stopping_while_waiting_ends_at_once_with_a_checkpoint(complete, tmp_path):
    folder = copy(complete, tmp_path / "cache", range(2))
    loader, watch = loader_of(folder), Watch()

    class Stops(Watch):
        def on_message(self, trainer: Trainer, text: str) -> None:
            if text.startswith("waiting for the packer"):
                trainer._guard.requested = "a test"

    with packer_at_work(folder):
        started = time.monotonic()
        trainer = train(loader, Stops(), watch, run_dir=tmp_path / "run")
    assert time.monotonic() - started < 20
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) >= 1
    assert trainer.state.sequences == len(loader.cache)
    copy(complete, folder, range(len(chunk_files(complete))))
    again = loader_of(folder)
    train(again, run_dir=tmp_path / "run", resume=True)
    assert Counter(loader.served) + Counter(again.served) == all_rows(complete)


def test_a_run_that_had_come_to_its_end_says_that_the_rate_stays_low(complete, tmp_path):
    folder = copy(complete, tmp_path / "cache", range(3))
    train(loader_of(folder), run_dir=tmp_path / "run")
    copy(complete, folder, range(len(chunk_files(complete))))
    watch = Watch()
    train(loader_of(folder), watch, run_dir=tmp_path / "run", resume=True)
    assert any("had come to its end" in text for text in watch.said)
    assert watch.rates == pytest.approx([1e-4] * len(watch.rates))


@pytest.mark.covers("R225")
def test_chunks_that_do_not_belong_are_never_trained_on(complete, tmp_path):
    """A chunk of another text can have the same name: that stands for tokenizer, length and packing only."""
    build_cache(
        [text[::-1] for text in texts(130)],
        ByteTokenizer(),
        tmp_path / "other",
        seq_len=SEQ_LEN,
        unit_bytes=500,
        source_fingerprint="others",
    )
    folder = copy(complete, tmp_path / "cache", range(4))
    shutil.copy(chunk_files(tmp_path / "other")[2], folder)
    cache = GrowingCache.open_growing(folder)
    assert cache.arrived() == [0, 1, 3]
    assert "a chunk of another cache" in cache.damaged[2]
    dead = chunk_files(folder)[1]
    dead.unlink()
    dead.symlink_to(tmp_path / "nothing")
    cache = GrowingCache.open_growing(folder)
    assert cache.arrived() == [0, 3]
    assert not cache.is_being_packed()


def test_a_chunk_that_is_deleted_while_training_is_named(complete, tmp_path, monkeypatch):
    monkeypatch.setattr("llm_trainer.data.cache.OPEN_CHUNKS", 1)
    monkeypatch.setattr("llm_trainer.data.cache.BLOCK_MEMORY", 1)
    folder = copy(complete, tmp_path / "cache", range(4))

    class Deletes(Watch):
        def on_step(self, trainer: Trainer) -> None:
            for path in folder.glob("chunk-*.tok"):
                path.unlink()

    with pytest.raises(CorruptionError, match=r"chunk-0000\d-.*is missing\n.*--mode inverse"):
        train(loader_of(folder), Deletes(), run_dir=tmp_path / "run", save_steps=1)
    assert (folder / PLAN).exists()


@pytest.mark.slow
@pytest.mark.covers("R220", "R235", "R236")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_growing_run_on_one_two_four_ranks_and_back_serves_one_and_the_same_stream(complete, tmp_path):
    """The cache grows between the parts; every sequence is served once, in the order that one process would take."""
    folder = copy(complete, tmp_path / "cache", range(2))
    total = len(chunk_files(complete))
    stops = [(1, 8, range(2)), (2, 16, range(2, 4)), (4, 32, range(4, 5)), (1, None, range(5, total))]
    streams: list[tuple[int, ...]] = []
    for part, (ranks, stop, units) in enumerate(stops):
        copy(complete, folder, units)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(ranks):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{ranks}"}
                    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
                    served = part_of_a_run(folder, tmp_path / "run", rank, ranks, stop, resume=part > 0)
                    (tmp_path / f"{part}-{rank}.json").write_text(json.dumps(served))
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * ranks
        by_rank = [json.loads((tmp_path / f"{part}-{rank}.json").read_text()) for rank in range(ranks)]
        for position in range(max(map(len, by_rank))):
            streams += [tuple(rows[position]) for rows in by_rank if position < len(rows)]
    padding = (0,) * SEQ_LEN
    assert Counter(row for row in streams if row != padding) == all_rows(complete)


def part_of_a_run(
    folder: Path, run_dir: Path, rank: int, ranks: int, stop: int | None, *, resume: bool
) -> list[list[int]]:
    """What one rank trained on until about ``stop`` sequences had been consumed."""
    served: list[list[int]] = []

    class Notes(Trainer):
        def custom_training_step(self, batch):
            served.extend(batch["input_ids"].tolist())
            return super().custom_training_step(batch)

    class Stops(Watch):
        def on_step(self, trainer: Trainer) -> None:
            if stop is not None and trainer.state.sequences >= stop:
                trainer._guard.requested = "a test"

    loader = loader_of(folder, rank=rank, world_size=ranks)
    loader.batch_size = 2
    settings = config(max_steps=None, num_epochs=1, batch_size=2, learning_rate=1e-3)
    model = tiny_model(vocab_size=257, max_seq_len=SEQ_LEN)
    Notes(model, None, settings, run_dir=run_dir, callbacks=[Stops()]).fit(loader, resume=resume)
    return served
