"""Start-up tuning: choices follow the timings, what was given stays, and nothing depends on the cache."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_trainer.common.user_folder import cache_folder
from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.training import Trainer, modules, tuning_search
from llm_trainer.training.tuning import Tuning, tune
from llm_trainer.training.tuning_cache import FILE, TuningCache
from llm_trainer.training.tuning_probe import Measurer, Setting
from llm_trainer.training.tuning_search import micro_batches
from tests.training.helpers import ListLoader, Recorder, config, tiny_model

CPU = torch.device("cpu")
SHAPE = ModelConfig(vocab_size=61, d_model=32, n_heads=4, n_layers=3, max_seq_len=64)
Seconds = Callable[[Setting], float]


class FakeMachine:
    """A machine that says how long a step of each setting takes, and a clock that runs only while it measures."""

    blocks, scale = 2, 1.5

    def __init__(self, seconds: Seconds, rates: dict[tuple[str, int], float] | None = None) -> None:
        self.answer = seconds
        self.rates = rates or {}
        self.timed: list[Setting] = []
        self.products: list[tuple[str, int]] = []
        self.now = 0.0
        self.closed = False

    def matmul_rate(self, precision: str, threads: int) -> float:
        self.products.append((precision, threads))
        return self.rates.get((precision, threads), 1e11 * threads * (2 if precision == "bf16" else 1))

    def rows(self, rate: float) -> int | None:
        return 4

    def seconds(self, setting: Setting, worst: float) -> float:
        self.timed.append(setting)
        took = self.answer(setting)
        self.now += 3 * took
        return took

    def close(self) -> None:
        self.closed = True

    def tune(self, settings: dict[str, Any] | None = None, cache: TuningCache | None = None, **more: Any) -> Tuning:
        training = TrainingConfig.from_dict({"device": "cpu", **(settings or {})})
        return tune(
            SHAPE,
            training,
            64,
            CPU,
            cache=cache or TuningCache(None),
            measurer=lambda *arguments: self,
            clock=lambda: self.now,
            **more,
        )


def step(
    bf16: float = 0.5, two: float = 0.6, reuse: float = 0.9, compiled: float = 0.8, row: Seconds | None = None
) -> Seconds:
    """Seconds as a product of what each choice is worth; 10 ms a row otherwise."""

    def seconds(setting: Setting) -> float:
        value = 0.01 * setting.rows if row is None else row(setting)
        for on, factor in (
            (setting.precision == "bf16", bf16),
            (setting.num_threads == 2, two),
            (setting.reuse_memory, reuse),
            (setting.compile, compiled),
        ):
            value *= factor if on else 1.0
        return value

    return seconds


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch would use two, and there is glibc."""
    monkeypatch.setattr(tuning_search.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(tuning_search, "can_reuse_freed_memory", lambda: True)
    monkeypatch.setattr(tuning_search, "compiler_problem", lambda device: None)


@pytest.mark.covers("R273")
@pytest.mark.parametrize(
    ("machine", "chosen"),
    [
        (step(), ("bf16", 2, True)),
        (step(bf16=0.97), ("fp32", 2, True)),  # not worth its rounding
        (step(bf16=3.0), ("fp32", 2, True)),
        (step(two=1.2), ("bf16", 1, True)),
        (step(two=20.0), ("bf16", 1, True)),
        (step(reuse=1.0), ("bf16", 2, True)),  # costs nothing
        (step(reuse=1.2), ("bf16", 2, False)),
    ],
)
def test_choices_follow_the_timings(machine: Seconds, chosen: tuple[str, int, bool]) -> None:
    fake = FakeMachine(machine)
    found = fake.tune()
    assert (found.precision.format, found.num_threads, found.reuse_memory) == chosen
    assert found.compile is False
    assert set(found.reasons) == {"precision", "num_threads", "reuse_memory", "compile"}
    assert [line.setting for line in found.measured] == fake.timed
    assert fake.closed


def test_bfloat16_is_never_stepped_where_products_are_slower_with_it() -> None:
    fake = FakeMachine(step(), {("bf16", 1): 1e8})
    assert fake.tune().precision.format == "fp32"
    assert {setting.precision for setting in fake.timed} == {"fp32"}


def test_a_busy_machine_gets_one_thread_and_no_step_with_two(tmp_path: Path) -> None:
    fake = FakeMachine(step(two=500.0), {("bf16", 2): 1e10, ("fp32", 2): 1e10})
    found = fake.tune(cache=TuningCache(tmp_path))
    assert found.num_threads == 1
    assert {setting.num_threads for setting in fake.timed} == {1}
    assert "10 GFLOP/s with 2 threads" in found.reasons["num_threads"]
    assert not list(tmp_path.iterdir())  # what a busy machine says is not kept


def test_steps_decide_where_products_are_only_a_little_slower() -> None:
    fake = FakeMachine(step(two=0.6), {("bf16", 2): 1.5e11})
    assert fake.tune().num_threads == 2
    slow = FakeMachine(step(two=0.6, row=lambda setting: 1.2), {("bf16", 2): 1.5e11})
    assert slow.tune().num_threads == 1  # no time for steps: then it is the products


def test_steps_that_hinder_each_other_are_not_kept_either(tmp_path: Path) -> None:
    assert FakeMachine(step(two=1.0)).tune(cache=TuningCache(tmp_path)).num_threads == 1
    assert not list(tmp_path.iterdir())


def test_what_was_given_is_neither_changed_nor_timed() -> None:
    fake = FakeMachine(step(bf16=0.1, two=0.1, reuse=0.1))
    given = {"precision": "fp32", "num_threads": 1, "reuse_memory": False, "batch_size": 3, "compile": False}
    found = fake.tune(given, micro_batch=True)
    assert (found.precision.format, found.num_threads, found.reuse_memory, found.compile) == ("fp32", 1, False, False)
    assert (found.batch_size, found.gradient_accumulation_steps) == (3, 1)
    assert not fake.timed and not fake.products and not found.reasons
    fake.tune({**given, "reuse_memory": None})
    assert {(setting.precision, setting.num_threads) for setting in fake.timed} == {("fp32", 1)}


@pytest.mark.parametrize("name", ["use_amp", "use_mixed_precision"])
def test_a_precision_given_by_another_name_is_given(name: str) -> None:
    fake = FakeMachine(step())
    found = fake.tune({name: False})
    assert found.precision.format == "fp32" and "precision" not in found.reasons
    assert {setting.precision for setting in fake.timed} == {"fp32"}


def test_without_tuning_nothing_is_stepped() -> None:
    fake = FakeMachine(step())
    found = fake.tune({"tune": False, "use_amp": True})
    assert not fake.timed
    assert (found.precision.format, found.num_threads, found.reuse_memory, found.compile) == (
        "bf16",
        None,
        False,
        False,
    )


# ---------------------------------------------------------------------- micro-batch


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [((8, 1, 64), [1, 2, 4, 8]), ((6, 4, 64), [3, 6, 12, 24]), ((4, 8, 1024), [1, 2, 4, 8]), ((3, 5, 64), [3])],
)
def test_micro_batches_keep_the_product_and_have_a_largest_size(
    arguments: tuple[int, int, int], sizes: list[int]
) -> None:
    assert micro_batches(*arguments) == sizes
    assert all(arguments[0] * arguments[1] % size == 0 for size in sizes)


@pytest.mark.parametrize(
    ("costs", "size"),
    [
        ({1: 1.0, 2: 0.9, 4: 0.7, 8: 1.0}, 4),
        ({1: 1.0, 2: 0.9, 4: 0.98, 8: 1.0}, 2),
        ({1: 1.0, 2: 0.98, 4: 1.0, 8: 1.0}, 8),  # within 3 %: fewer micro-steps
    ],
)
def test_the_micro_batch_is_the_fastest_or_a_larger_one_nearly_as_fast(costs: dict[int, float], size: int) -> None:
    fake = FakeMachine(step(row=lambda setting: 0.002 * setting.rows * costs[setting.rows]))
    found = fake.tune(micro_batch=True)
    assert (found.batch_size, found.gradient_accumulation_steps) == (size, 8 // size)
    assert FakeMachine(fake.answer).tune().batch_size == 8  # only where it may change


def test_the_tuned_micro_batch_trains_the_same() -> None:
    def losses(**sizes: int) -> list[float]:
        recorder = Recorder()
        loader = ListLoader(batch_size=sizes["batch_size"])
        Trainer(tiny_model(), None, config(**sizes), callbacks=[recorder]).fit(loader)
        return recorder.losses

    whole = losses(batch_size=8, gradient_accumulation_steps=1)
    assert losses(batch_size=2, gradient_accumulation_steps=4) == pytest.approx(whole, abs=1e-5)


# ---------------------------------------------------------------------- time


def test_what_there_is_no_time_for_keeps_its_default_and_says_so() -> None:
    fake = FakeMachine(step(row=lambda setting: 1.2))
    found = fake.tune(micro_batch=True)
    assert fake.now < 2 * tuning_search.DEADLINE_SECONDS
    assert found.precision.format == "bf16"  # what products of matrices say
    assert found.num_threads == 2
    assert found.reuse_memory is False and found.reasons["reuse_memory"] == tuning_search.NOT_MEASURED
    assert found.batch_size == 8 and found.reasons["batch_size"] == tuning_search.NOT_MEASURED


def test_a_model_too_large_for_a_probe_is_judged_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMachine(step())
    monkeypatch.setattr(fake, "rows", lambda rate: None)
    found = fake.tune()
    assert not fake.timed
    assert (found.precision.format, found.num_threads, found.reuse_memory) == ("bf16", 2, False)
    assert "GFLOP/s" in found.reasons["precision"] and "GFLOP/s" in found.reasons["num_threads"]


def test_a_short_run_is_measured_shortly_and_not_remembered(tmp_path: Path) -> None:
    fake = FakeMachine(step())
    fake.tune(tokens=64 * 40, cache=TuningCache(tmp_path))
    assert len(fake.timed) == 1
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- compilation


@pytest.mark.parametrize(
    ("settings", "compiled", "expected", "tried"),
    [
        ({"max_minutes": 60}, 0.8, True, True),
        ({"max_minutes": 60}, 0.97, False, True),
        ({"max_minutes": 5}, 0.8, False, False),
        ({"compile": True, "max_minutes": 1}, 2.0, True, False),
        ({"compile": False, "max_minutes": 60}, 0.1, False, False),
    ],
)
def test_compiling_is_tried_for_long_runs_and_used_if_faster(
    settings: dict[str, Any], compiled: float, expected: bool, tried: bool
) -> None:
    fake = FakeMachine(step(compiled=compiled))
    found = fake.tune(settings)
    assert found.compile is expected
    assert any(setting.compile for setting in fake.timed) is tried


def test_a_machine_without_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_search, "compiler_problem", lambda device: "no g++")
    found = FakeMachine(step()).tune({"max_minutes": 60})
    assert found.compile is False and "no g++" in found.reasons["compile"]


def test_compiled_blocks_run_where_there_are_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def compile_in_name(module: torch.nn.Module) -> None:
        def compiled(*args: Any, **kwargs: Any) -> Any:
            calls.append("compiled")
            return module._call_impl(*args, **kwargs)

        module._compiled_call_impl = compiled

    monkeypatch.setattr(modules, "compiler_problem", lambda device: None)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_in_name)
    model = tiny_model()
    assert modules.compile_blocks(model, CPU, message=print)
    ids = torch.zeros(1, 4, dtype=torch.long)
    logits = model(ids).logits
    assert len(calls) == 2
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, logits)
    assert len(calls) == 2
    assert copy.deepcopy(model)(ids).logits.shape == logits.shape
    assert len(calls) == 2  # a copy is a model like any other


# ---------------------------------------------------------------------- cache


def test_the_cache_answers_all_but_the_threads(tmp_path: Path) -> None:
    first = FakeMachine(step()).tune(cache=TuningCache(tmp_path), micro_batch=True)
    again = FakeMachine(step(two=3.0))
    second = again.tune(cache=TuningCache(tmp_path), micro_batch=True)
    assert (first.cached, second.cached) == (False, True)
    assert (first.num_threads, second.num_threads) == (2, 1)  # something else runs now
    assert {(line.precision, line.reuse_memory) for line in again.timed} == {("bf16", True)}
    assert (second.precision.format, second.reuse_memory, second.batch_size) == ("bf16", True, first.batch_size)
    assert second.reasons["reuse_memory"].startswith("measured by an earlier run")
    other = FakeMachine(step())
    assert not other.tune({"gradient_checkpointing": True}, cache=TuningCache(tmp_path)).cached


def test_compiling_is_tried_by_the_first_long_run_and_remembered(tmp_path: Path) -> None:
    FakeMachine(step()).tune(cache=TuningCache(tmp_path))
    long = FakeMachine(step())
    assert long.tune({"max_minutes": 60}, cache=TuningCache(tmp_path)).compile
    assert any(setting.compile for setting in long.timed)
    next_one = FakeMachine(step())
    assert next_one.tune({"max_minutes": 60}, cache=TuningCache(tmp_path)).compile
    assert not any(setting.compile for setting in next_one.timed)
    assert not FakeMachine(step()).tune({"max_minutes": 5}, cache=TuningCache(tmp_path)).compile


@pytest.mark.parametrize("damage", ["{", "[]", "entry", b"\xff\xfe"])
def test_a_damaged_cache_costs_a_measurement_and_is_repaired(damage: str | bytes, tmp_path: Path) -> None:
    FakeMachine(step()).tune(cache=TuningCache(tmp_path))
    file = tmp_path / FILE
    if damage == "entry":
        entries = json.loads(file.read_text(encoding="utf-8"))
        key = next(iter(entries))
        entries[key]["setting"]["precision"] = "fp13"
        file.write_text(json.dumps(entries), encoding="utf-8")
    else:
        file.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    fake = FakeMachine(step())
    found = fake.tune(cache=TuningCache(tmp_path))
    assert not found.cached and len(fake.timed) > 2
    assert "what was measured before is not used" in " ".join(found.notes)
    assert FakeMachine(step()).tune(cache=TuningCache(tmp_path)).cached


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    found = FakeMachine(step()).tune(cache=TuningCache(tmp_path / "file"))
    assert found.precision.format == "bf16"
    assert "nothing was kept for the next run" in " ".join(found.notes)


def test_the_cache_is_where_the_person_wants_it() -> None:
    assert cache_folder({"LLM_TRAINER_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_folder({"LLM_TRAINER_CACHE": ""}) is None
    assert cache_folder({"XDG_CACHE_HOME": "/b"}) == Path("/b/llm-trainer")
    assert cache_folder({}, "linux") == Path.home() / ".cache" / "llm-trainer"
    assert cache_folder({"LOCALAPPDATA": "/c"}, "win32") == Path("/c/llm-trainer/Cache")


# ---------------------------------------------------------------------- for real


def test_a_real_probe_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    measurer = Measurer(SHAPE, TrainingConfig(device="cpu"), 64)
    try:
        assert measurer.blocks == 2 and 1 < measurer.scale < 2
        assert measurer.rows(1e11) == 16
        assert measurer.rows(1.0) is None
        assert 0 < measurer.seconds(Setting("fp32", 1, True, 2), worst=60.0) < 60
    finally:
        measurer.close()
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == 1


def test_the_trainer_tunes_itself_and_never_its_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    recorder = Recorder()
    settings = TrainingConfig(device="cpu", max_steps=3)
    trainer = Trainer(tiny_model(), None, settings, callbacks=[recorder])
    trainer.fit(ListLoader(batch_size=8))
    assert len(recorder.losses) == 3
    assert trainer.tuning.measured
    assert (trainer.tuning.batch_size, trainer.tuning.gradient_accumulation_steps) == (8, 1)
    assert trainer.precision == trainer.tuning.precision
    assert Tuning.from_dict(json.loads(json.dumps(trainer.tuning.to_dict()))) == trainer.tuning
    assert not settings.given("precision")  # the person's configuration is theirs
