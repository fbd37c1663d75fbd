"""Cadence, ends, guards: what happens when, and what happens when something is wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from llm_trainer.common.errors import TrainingError, UserError
from llm_trainer.training import Trainer, load_checkpoint
from llm_trainer.training.checkpoint import latest_checkpoint
from llm_trainer.training.ema import EMA
from llm_trainer.training.utils import GradientClipping
from tests.training.helpers import ListLoader, Recorder, config, tiny_model


@pytest.mark.covers("R248")
@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_steps": 5}, 5),
        ({"max_steps": None, "num_epochs": 2}, 7),  # 2 x 25 sequences in steps of 8: six whole, one of two
        ({"max_steps": 3, "num_epochs": 2}, 3),
        ({"max_steps": 100, "num_epochs": 1}, 4),
    ],
)
def test_stops_exactly_at_the_end(settings: dict[str, int | None], steps: int) -> None:
    recorder = Recorder()
    trainer = Trainer(tiny_model(), config=config(gradient_accumulation_steps=2, **settings), callbacks=[recorder])
    result = trainer.fit(ListLoader(sequences=25))
    assert (result.step, len(recorder.losses), recorder.outcome) == (steps, steps, "finished")
    if settings.get("num_epochs") and steps in (4, 7):
        assert trainer.state.sequences == 25 * settings["num_epochs"]


@pytest.mark.covers("R248")
def test_a_time_budget_ends_on_time_with_the_schedule() -> None:
    recorder = Recorder()
    settings = config(max_steps=None, max_minutes=0.02, logging_steps=1, lr_scheduler="linear", warmup_ratio=0.1)
    settings.min_learning_rate_ratio = 0.0
    result = Trainer(tiny_model(), config=settings, callbacks=[recorder]).fit(ListLoader())
    rates = [metrics["train/learning_rate"] for metrics in recorder.logs]
    assert 1.15 <= result.elapsed <= 2.0
    assert max(rates) > 0.8 * settings.learning_rate
    assert rates[-1] < 0.1 * max(rates)


@pytest.mark.covers("R249", "R294")
def test_cadence_of_logs_checkpoints_and_validations(tmp_path: Path) -> None:
    recorder = Recorder()
    settings = config(max_steps=20, logging_steps=3, save_steps=8, eval_steps=5, keep_last=9)
    trainer = Trainer(tiny_model(), config=settings, run_dir=tmp_path, callbacks=[recorder])
    trainer.fit(ListLoader(), ListLoader(sequences=8, seed=2))
    assert recorder.saves == [8, 16, 20]
    assert [step for step, _ in recorder.evaluations] == [5, 10, 15, 20]
    assert len(recorder.logs) == 7
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-000008",
        "step-000016",
        "step-000020",
    ]


@pytest.mark.covers("R302")
def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path) -> None:
    recorder = Recorder()
    settings = config(max_steps=8, save_steps=1, eval_steps=1, keep_last=2, learning_rate=1e-3)
    trainer = Trainer(tiny_model(), config=settings, run_dir=tmp_path, callbacks=[recorder])
    losses = iter([5.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    trainer._evaluate = lambda loader: {"validation/loss": next(losses)}  # type: ignore[method-assign]
    trainer.fit(ListLoader(), ListLoader(sequences=8))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000007", "step-000008"]


@pytest.mark.covers("R250")
def test_patience_ends_the_run(tmp_path: Path) -> None:
    recorder = Recorder()
    settings = config(max_steps=50, eval_steps=1, early_stopping_patience=2)
    trainer = Trainer(tiny_model(), config=settings, run_dir=tmp_path, callbacks=[recorder])
    losses = iter([3.0, 2.0, 2.5, 2.4, 1.0])
    trainer._evaluate = lambda loader: {"validation/loss": next(losses)}  # type: ignore[method-assign]
    result = trainer.fit(ListLoader(), ListLoader(sequences=8))
    assert result.step == 4
    assert any("has not improved 2 times" in message for message in recorder.messages)
    assert recorder.saves[-1] == 4


@pytest.mark.covers("R246", "R247")
def test_clipping_once_a_step_and_the_norm_before_it() -> None:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(4))]
    gradients = [torch.randn(5, 3) * 10, torch.randn(4) * 10]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient.clone()
    norm = GradientClipping(1.0)(parameters, scale=0.5)
    reference = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    for parameter, gradient in zip(reference, gradients):
        parameter.grad = gradient * 0.5
    expected = torch.nn.utils.clip_grad_norm_(reference, 1.0)
    assert norm == pytest.approx(float(expected), rel=1e-6)
    for mine, theirs in zip(parameters, reference):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-7)


@pytest.mark.covers("R256")
def test_a_step_with_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    class Poisoned(Trainer):
        def custom_training_step(self, batch):  # type: ignore[no-untyped-def]
            terms = super().custom_training_step(batch)
            if self.state.step == 1:
                before.extend(parameter.detach().clone() for parameter in self.model.parameters())
                terms.total = terms.total * math.nan
            if self.state.step == 2:
                after.extend(parameter.detach().clone() for parameter in self.model.parameters())
            return terms

    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    recorder = Recorder()
    trainer = Poisoned(tiny_model(), config=config(max_steps=4), callbacks=[recorder])
    trainer.fit(ListLoader())
    assert trainer.state.skipped_steps == 1
    assert all(torch.equal(x, y) for x, y in zip(before, after))
    assert recorder.messages == ["step 2: a gradient was not finite; the step was skipped"]
    assert math.isfinite(recorder.losses[-1])


@pytest.mark.covers("R256")
def test_divergence_stops_with_one_message(tmp_path: Path) -> None:
    class Diverged(Trainer):
        def custom_training_step(self, batch):  # type: ignore[no-untyped-def]
            terms = super().custom_training_step(batch)
            terms.total = terms.total * (math.inf if self.state.step >= 3 else 1.0)
            return terms

    recorder = Recorder()
    settings = config(max_steps=50, save_steps=2, max_skipped_steps=4)
    trainer = Diverged(tiny_model(), config=settings, run_dir=tmp_path, callbacks=[recorder])
    with pytest.raises(TrainingError, match="4 steps in a row were not finite"):
        trainer.fit(ListLoader())
    assert recorder.outcome == "failed"
    newest = latest_checkpoint(tmp_path / "checkpoints", on_damage=pytest.fail)
    assert newest is not None
    model = tiny_model(seed=1)
    load_checkpoint(newest, model)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.covers("R047", "R253")
def test_ema_is_the_analytic_recursion_and_is_evaluated() -> None:
    model = tiny_model()
    ema = EMA(model, 0.9)
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ema.update()
        for name, parameter in model.named_parameters():
            expected[name] = 0.9 * expected[name] + 0.1 * parameter.detach()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with ema.applied():
        for name, parameter in model.named_parameters():
            assert torch.allclose(parameter, expected[name], atol=1e-5)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])


@pytest.mark.covers("R047", "R253")
def test_validation_uses_the_average(tmp_path: Path) -> None:
    recorder = Recorder()
    settings = config(max_steps=10, use_ema=True, ema_decay=0.5, learning_rate=1e-2)
    trainer = Trainer(tiny_model(), config=settings, run_dir=tmp_path, callbacks=[recorder])
    held_out = ListLoader(sequences=8, seed=2)
    trainer.fit(ListLoader(), held_out)
    averaged = trainer.evaluate(held_out)["validation/loss"]
    plain = trainer._evaluate(held_out)["validation/loss"]
    assert recorder.evaluations[-1][1]["validation/loss"] == pytest.approx(averaged, rel=1e-6)
    assert averaged != pytest.approx(plain, rel=1e-6)


@pytest.mark.covers("R015", "R258")
def test_same_seed_same_weights_to_the_last_bit() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = tiny_model(dropout=0.1)
        Trainer(model, config=config(seed=seed)).fit(ListLoader())
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.covers("R043", "R274")
def test_devices_and_precision_are_what_was_asked_for() -> None:
    trainer = Trainer(tiny_model(), config=config(max_steps=1, use_amp=False))
    trainer.fit(ListLoader())
    assert trainer.precision.format == "fp32"
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"training\.device is 'cuda', but PyTorch sees no such device"):
            Trainer(tiny_model(), config=config(device="cuda", use_amp=True)).fit(ListLoader())
    with pytest.raises(UserError, match="'gpu' is not a device"):
        Trainer(tiny_model(), config=config(device="gpu")).fit(ListLoader())


@pytest.mark.covers("R044")
def test_float16_on_a_cpu_becomes_bfloat16_and_trains() -> None:
    settings = config(use_accelerate=True, accelerate_mixed_precision="fp16")
    trainer = Trainer(tiny_model(), config=settings)
    result = trainer.fit(ListLoader())
    assert trainer.precision.format == "bf16"
    assert "float16 needs a GPU" in trainer.precision.reason
    assert math.isfinite(result.loss)


@pytest.mark.covers("R045")
def test_adapters_train_and_the_base_does_not() -> None:
    model = tiny_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = Trainer(model, config=config(max_steps=10, use_peft=True, peft_type="lora", peft_r=4, learning_rate=1e-2))
    trainer.fit(ListLoader())
    in_optimizer = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert in_optimizer == trainable
    frozen = {name.replace("base.", ""): p for name, p in model.named_parameters() if not p.requires_grad}
    assert len(frozen) == len(before)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            assert any(torch.equal(parameter, old) for old in before.values() if old.shape == parameter.shape)
    adapters = [p for p in model.parameters() if p.requires_grad]
    assert len(adapters) == 8  # two matrices for q and v in each of two blocks
    assert all(float(p.detach().abs().sum()) > 0 for p in adapters)


@pytest.mark.covers("R046")
def test_recomputed_activations_change_nothing() -> None:
    def weights(**changes: object) -> torch.Tensor:
        model = tiny_model(dropout=0.1)
        Trainer(model, config=config(**changes)).fit(ListLoader())
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.allclose(weights(), weights(gradient_checkpointing=True), atol=1e-6)


@pytest.mark.covers("R254")
def test_without_a_compiler_training_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> object:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    recorder = Recorder()
    Trainer(tiny_model(), config=config(use_torch_compile=True), callbacks=[recorder]).fit(ListLoader())
    assert recorder.messages == [
        "compile: true, but this machine cannot compile (no C++ compiler found); training uncompiled"
    ]
    assert recorder.outcome == "finished"


def test_texts_need_a_tokenizer() -> None:
    with pytest.raises(UserError, match="needs a tokenizer"):
        Trainer(tiny_model(), config=config()).fit(["some text"])


def test_auto_precision_is_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_trainer.training import precision

    for speeds, expected in (((100e9, 300e9), "bf16"), ((100e9, 110e9), "fp32"), ((100e9, 1e9), "fp32")):
        rates = dict(zip((torch.float32, torch.bfloat16), speeds))
        monkeypatch.setattr(precision, "matmul_peak", lambda device, dtype, rates=rates, **options: rates[dtype])
        precision._probe_cpu.cache_clear()
        chosen = precision.resolve_precision(config(precision="auto"), torch.device("cpu"))
        assert chosen.format == expected
        assert "measured now" in chosen.reason
    precision._probe_cpu.cache_clear()


def test_small_numbers_are_small_numbers_again_when_training_is_over() -> None:
    torch.set_flush_denormal(False)
    tiny = torch.tensor(torch.finfo(torch.float32).smallest_normal)
    Trainer(tiny_model(), None, config(max_steps=1)).fit(ListLoader())
    assert tiny / 2 > 0
