"""The one gradient loop.

Everything that is trained by gradients goes through :meth:`Trainer.fit`; what differs between pretraining, fine-tuning
and the rest is the *objective* and the *batches*. One step is: accumulate the gradient of the loss sum over the
micro-steps, add it over ranks, divide by the number of targets and clip in one pass, update. After it, save before
evaluating: an evaluation that fails must not cost the work before it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llm_trainer.common import devices
from llm_trainer.common.errors import TrainingError, UserError
from llm_trainer.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from llm_trainer.training.callbacks import Callback
from llm_trainer.training.checkpoint import (
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_leftovers,
    remove_old_checkpoints,
    save_checkpoint,
)
from llm_trainer.training.ema import EMA
from llm_trainer.training.horizon import Horizon, TrainState, due
from llm_trainer.training.interrupt import InterruptGuard
from llm_trainer.training.meter import Meter, real_tokens
from llm_trainer.training.modules import prepare_model
from llm_trainer.training.objectives import Batch, CausalLM, LossTerms, Objective
from llm_trainer.training.optimizer import create_optimizer, set_learning_rate
from llm_trainer.training.parallel import data_parallel
from llm_trainer.training.precision import LossScaler, Precision, resolve_precision
from llm_trainer.training.resume import check_resumable
from llm_trainer.training.scheduler import learning_rate_factor
from llm_trainer.training.utils import GradientClipping, seed_everything
from llm_trainer.training.validation import byte_lengths, validate

LARGEST_SAVE_INTERVAL = 1000


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    outcome: str
    """``finished`` or ``interrupted``."""
    step: int
    loss: float
    """Training loss of the last step, nats per token."""
    metrics: dict[str, float]
    """The last validation."""
    tokens: int
    elapsed: float
    """Seconds."""


class Trainer:
    """Trains a model.

    Args:
        model: one of ours, or any module whose call gives ``.logits`` (such as a transformers model).
        tokenizer: needed for bits per byte and by :meth:`train_from_config`.
        config: how to train.
        objective: what to minimise; next-token prediction when left out.
        run_dir: folder for checkpoints. Without it nothing is written.
        callbacks: hooks, called in order on rank 0.

    Example:
        >>> Trainer(model, tokenizer, TrainingConfig(max_steps=100)).fit(loader)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        config: TrainingConfig | None = None,
        *,
        objective: Objective | None = None,
        run_dir: str | Path | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config = config if config is not None else TrainingConfig()
        self.config.validate()
        self.model = model
        self.tokenizer = tokenizer
        self.objective: Objective = objective if objective is not None else CausalLM()
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.callbacks = list(callbacks)
        self.state = TrainState()
        self.loss = math.nan
        self.last_metrics: dict[str, float] = {}
        self.grad_norm = 0.0
        self.objective_metrics: dict[str, float] = {}
        self.ema: EMA | None = None
        self._eval_loader: Any = None
        self._stopped = False
        self._owes_validation = False

    # ------------------------------------------------------------------ doors

    def train_from_config(
        self, model_config: ModelConfig, data_config: DataConfig, *, resume: bool = False
    ) -> TrainResult:
        """Find the data that ``data_config`` names, pack it with the tokenizer, and train on it.

        Args:
            model_config: the model's configuration; its ``max_seq_len`` is the sequence length unless
                ``data_config.max_length`` says otherwise.
            data_config: the data.
            resume: continue the newest good checkpoint in the run's folder.
        """
        from llm_trainer.training.preparation import prepare_data, run_folder
        from llm_trainer.training.reporting import RunReporter
        from llm_trainer.training.run_folder import RunDescriber

        if self.tokenizer is None:
            raise UserError("train_from_config needs a tokenizer: Trainer(model, tokenizer, config)")
        with data_parallel.process_group(devices.resolve_device(self.config.device)):
            data = prepare_data(data_config, self.tokenizer, model_config, self.config)
            if self.run_dir is None:
                name = data_parallel.from_main(lambda: str(run_folder(self.model, data_config, data.seq_len)))
                self.run_dir = Path(name)
            if not any(isinstance(callback, RunReporter) for callback in self.callbacks):
                run = RunConfig(model=model_config, data=data_config, training=self.config, name=self.run_dir.name)
                self.callbacks += [RunReporter(self.run_dir, self.config), RunDescriber(self.run_dir, run)]
            try:
                return self.fit(data.train, data.validation, resume=resume)
            finally:
                data.close()

    def fit(self, data: Any, eval_data: Any = None, *, resume: bool = False) -> TrainResult:
        """Train until the configured end.

        Args:
            data: a loader of ours, a packed cache, or texts (strings, dictionaries with a text column, a
                ``datasets.Dataset``), which are packed first.
            eval_data: the same, to validate on.
            resume: continue the newest good checkpoint of ``run_dir``; with none there, start from the beginning.

        Raises:
            UserError: with what to do about it. Everything saved before is intact.
        """
        if resume is False and self.checkpoint_dir is not None and list_checkpoints(self.checkpoint_dir):
            raise UserError(f"{self.run_dir} already holds a run", hint="pass resume=True, or choose another run_dir")
        self.state = TrainState()
        self.device = devices.resolve_device(self.config.device)
        with data_parallel.process_group(self.device), InterruptGuard() as self._guard:
            try:
                self._set_up(data, eval_data)
                if resume:
                    self._resume()
                self._tell("on_start")
                outcome = self._loop()
            except BaseException as error:
                message = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                self._tell("on_end", "failed", message)
                raise
            stopped = f"stopped by {self._guard.requested}" if outcome == "interrupted" else ""
            self._tell("on_end", outcome, stopped)
        state = self.state
        return TrainResult(outcome, state.step, self.loss, dict(self.last_metrics), state.tokens, state.elapsed)

    def evaluate(self, data: Any = None) -> dict[str, float]:
        """Validate on ``data``, or on the evaluation data of :meth:`fit`; with EMA, the averaged weights."""
        from llm_trainer.training.preparation import as_loader

        loader = self._eval_loader
        if data is not None:
            loader = as_loader(data, self.tokenizer, self.model, self.config, shuffle=False)
        if loader is None:
            raise UserError("there is no data to evaluate on: give evaluate() some, or eval_data to fit()")
        with self._averaged_weights():
            return self._evaluate(loader)

    def _evaluate(self, loader: Any) -> dict[str, float]:
        """Validate the weights that the model has now."""
        if not hasattr(self, "device"):
            self.device = devices.resolve_device(self.config.device)
            self.model.to(self.device)
        precision = getattr(self, "precision", None) or resolve_precision(self.config, self.device)
        return validate(
            self.model,
            self.objective,
            loader.batches(0, len(loader)),
            device=self.device,
            autocast=precision.autocast(),
            token_bytes=byte_lengths(self.tokenizer),
        )

    def custom_training_step(self, batch: Batch) -> LossTerms:
        """The loss of one micro-batch. Override it to train with a loss of your own."""
        return self.objective.loss(self.model, batch)

    # ------------------------------------------------------------------ set-up

    def _set_up(self, data: Any, eval_data: Any) -> None:
        from llm_trainer.training.preparation import as_loader

        config = self.config
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        # A run that diverges fills the weights with denormals, which CPUs multiply more than 5x slower.
        torch.set_flush_denormal(True)
        self._world_size = devices.world_size()
        self._loader = as_loader(data, self.tokenizer, self.model, config)
        self._eval_loader = (
            as_loader(eval_data, self.tokenizer, self.model, config, shuffle=False) if eval_data is not None else None
        )
        self.model.to(self.device)
        prepare_model(self.model, config, self.device, message=self._message)
        data_parallel.broadcast_model(self.model)
        self.model.train()
        self.precision = resolve_precision(config, self.device)
        if self.precision.needs_telling:
            self._message(f"computing in {self.precision.format}: {self.precision.reason}")
        self._scaler = LossScaler(self.precision.needs_scaler)
        self.optimizer = create_optimizer(self.model, config)
        self._clip = GradientClipping(config.max_grad_norm)
        self.ema = EMA(self.model, config.ema_decay) if config.use_ema else None
        self._plan()

    def _plan(self) -> None:
        self._horizon = Horizon.plan(self.config, len(self._loader), self._world_size, self.state)
        self._horizon.update(self.state, self.config)

    @property
    def checkpoint_dir(self) -> Path | None:
        """Where checkpoints go."""
        return self.run_dir / "checkpoints" if self.run_dir is not None else None

    def _resume(self) -> None:
        if self.checkpoint_dir is None:
            raise UserError("resume=True needs a run_dir to resume from")
        path = latest_checkpoint(self.checkpoint_dir, on_damage=self._message)
        if path is None:
            self._message(f"no checkpoint in {self.checkpoint_dir}; starting from the beginning")
            return
        loaded = load_checkpoint(path, self.model, self.optimizer)
        saved = loaded.state
        check_resumable(loaded, self.config, data=self._loader.fingerprint)
        self.state = TrainState.from_dict(saved["train"])
        self._scaler.load_state_dict(saved["scaler"])
        if self.config.precision == "auto" and self.config.use_amp is None:
            # What was measured then, not what a busy machine measures now.
            self.precision = Precision.saved(saved["precision"], self.device.type)
        if self.ema is not None:
            self.ema.load(loaded.averages)
        self.loss = saved["loss"]
        self._plan()
        # The checkpoint was saved before the validation of its step, which decides about the best one and patience.
        self._owes_validation = self._evaluation_is_due() or self._horizon.reached(self.state)
        self._message(f"resumed {path.name}: {self.state.sequences:,} sequences seen")

    # ------------------------------------------------------------------ the loop

    def _loop(self) -> str:
        config, state = self.config, self.state
        batches = self._loader.batches(state.sequences, self._horizon.sequences)
        per_step = config.sequences_per_step(self._world_size)
        clock = time.perf_counter()
        meter = Meter()
        self._skips_in_a_row = 0
        if self._owes_validation and self._eval_loader is not None and self._validate_and_judge(saved=True):
            return "finished"
        try:
            while not self._horizon.reached(state):
                micro_batches = list(islice(batches, config.gradient_accumulation_steps))
                if not micro_batches:
                    break
                loss, updated = self._step(micro_batches, meter)
                self._skips_in_a_row = 0 if updated else self._skips_in_a_row + 1
                if self._skips_in_a_row >= config.max_skipped_steps:
                    raise TrainingError(
                        f"the gradients of {self._skips_in_a_row} steps in a row were not finite (up to step "
                        f"{state.step + 1}, loss {loss:.4g}); nothing was saved since they began",
                        hint="lower training.learning_rate, or look for broken documents in the data",
                    )
                self.loss = loss
                remaining = math.inf if self._horizon.sequences is None else self._horizon.sequences - state.sequences
                state.sequences += int(min(per_step, remaining))
                now = time.perf_counter()
                # Ranks decide together when a timed run ends.
                state.elapsed += data_parallel.mean_over_ranks(now - clock, self.device)
                clock = now
                state.step += 1
                self._horizon.update(state, config)
                if self._after_step(meter):
                    break
        finally:
            _close(batches)
        return "interrupted" if self._stopped else "finished"

    def _step(self, micro_batches: list[Batch], meter: Meter) -> tuple[float, bool]:
        """One optimizer update.

        Returns:
            The mean loss per target over all micro-batches and ranks, and whether the weights were updated.
        """
        config, state = self.config, self.state
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        count = tokens = 0
        for index, batch in enumerate(micro_batches):
            seed_everything(config.seed, state.step, index, devices.rank())
            tokens += real_tokens(batch)
            on_device = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
            with self.precision.autocast():
                terms = self.custom_training_step(on_device)
            (terms.total * self._scaler.scale).backward()  # type: ignore[no-untyped-call]
            total += terms.total.detach()
            count += terms.count
            self.objective_metrics.update(terms.metrics)
        data_parallel.sum_gradients(self.model)
        total_sum, all_count, all_tokens = data_parallel.sum_over_ranks([float(total), count, tokens], self.device)
        self.grad_norm = self._clip(self.model.parameters(), 1 / (max(1, all_count) * self._scaler.scale))
        finite = math.isfinite(self.grad_norm)
        if finite:
            factor = learning_rate_factor(config, state.step, state.total_steps, state.warmup_steps)
            set_learning_rate(self.optimizer, factor)
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update()
        else:
            state.skipped_steps += 1
            self._message(f"step {state.step + 1}: a gradient was not finite; the step was skipped")
        self._scaler.update(overflow=not finite)
        state.tokens += int(all_tokens)
        loss = total_sum / max(1, all_count)
        meter.add(loss, int(all_count), int(all_tokens))
        return loss, finite

    def _after_step(self, meter: Meter) -> bool:
        """Log, save and validate when due. Returns whether to stop."""
        config, state = self.config, self.state
        # A signal during the last step changes nothing: the run is complete.
        interrupted = self._interrupted() and not self._horizon.reached(state)
        self._stopped = interrupted
        last = self._horizon.reached(state) or interrupted
        self._tell("on_step")
        if last or state.step % config.logging_steps == 0:
            self._tell("on_log", self._training_metrics(meter))
            meter.reset()
        healthy = self._skips_in_a_row == 0
        wanted = healthy and due(state.step, state.total_steps, config.save_steps, at_most=LARGEST_SAVE_INTERVAL)
        save = last or wanted
        if save:
            self.save()
        wants_evaluation = (last or (healthy and self._evaluation_is_due())) and not interrupted
        if self._eval_loader is not None and wants_evaluation:
            started = time.perf_counter()
            stop = self._validate_and_judge(saved=save)
            meter.pause(time.perf_counter() - started)
            return stop or last
        return last

    def _evaluation_is_due(self) -> bool:
        return due(self.state.step, self.state.total_steps, self.config.eval_steps)

    def _validate_and_judge(self, *, saved: bool) -> bool:
        """Validate, remember the best step, and say whether patience has run out."""
        with self._averaged_weights():
            metrics = self._evaluate(self._eval_loader)
            self._tell("on_evaluate", metrics)
        return self._judge(metrics, saved=saved)

    def _judge(self, metrics: dict[str, float], *, saved: bool) -> bool:
        config, state = self.config, self.state
        self.last_metrics = metrics
        loss = metrics["validation/loss"]
        if saved and math.isfinite(loss) and (state.best_saved_loss is None or loss < state.best_saved_loss):
            state.best_saved_loss, state.best_step = loss, state.step
        if math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss):
            state.best_loss, state.evaluations_without_improvement = loss, 0
        else:
            state.evaluations_without_improvement += 1
        patience = config.early_stopping_patience
        if patience is not None and state.evaluations_without_improvement >= patience:
            self._message(f"validation loss has not improved {patience} times in a row; stopping early")
            if not saved:
                self.save()
            return True
        return False

    def _averaged_weights(self) -> AbstractContextManager[None]:
        return self.ema.applied() if self.ema is not None else contextlib.nullcontext()

    def save_model(self, folder: str | Path) -> None:
        """Save the model (with EMA, the averaged weights) and the tokenizer, ready to be loaded from ``folder``."""
        save = getattr(self.model, "save_pretrained", None)
        if save is None:
            raise UserError(f"a {type(self.model).__name__} cannot save itself: it has no save_pretrained")
        with self._averaged_weights():
            save(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def save(self) -> Path | None:
        """Save a checkpoint now, and delete the ones that are not kept."""
        directory = self.checkpoint_dir
        if directory is None or not data_parallel.is_main():
            data_parallel.barrier()
            return None
        remove_leftovers(directory)
        state = {
            "train": self.state.to_dict(),
            "scaler": self._scaler.state_dict(),
            "data": self._loader.fingerprint,
            "seed": self.config.seed,
            "precision": self.precision.format,
            "loss": self.loss,
        }
        averages = self.ema.averages if self.ema is not None else None
        path = save_checkpoint(
            self.model, self.optimizer, self.state.step, directory=directory, state=state, averages=averages
        )
        keep = {self.state.best_step} if self.state.best_step is not None else set()
        remove_old_checkpoints(directory, newest=self.state.step, keep_last=self.config.keep_last, keep=keep)
        data_parallel.barrier()
        self._tell("on_save", path)
        return path

    # ------------------------------------------------------------------ small parts

    def _training_metrics(self, meter: Meter) -> dict[str, float]:
        state = self.state
        loss, tokens_per_second = meter.summary()
        return {
            "train/loss": loss,
            "train/perplexity": math.exp(min(loss, 700.0)),
            "train/learning_rate": max(group["lr"] for group in self.optimizer.param_groups),
            "train/grad_norm": self.grad_norm,
            "train/tokens_per_second": tokens_per_second,
            "train/tokens": float(state.tokens),
            "train/epoch": state.sequences / max(1, len(self._loader)),
            "train/skipped_steps": float(state.skipped_steps),
            "train/elapsed": state.elapsed,
            **{f"train/{name}": value for name, value in self.objective_metrics.items()},
        }

    @property
    def sequence_length(self) -> int:
        """Tokens per training sequence: the cache's, or the model's context for loaders that do not say."""
        cache = getattr(self._loader, "cache", None)
        if cache is not None:
            return int(cache.seq_len)
        config: Any = self.model.config
        return int(config.max_seq_len)

    def seconds_left(self, tokens_per_second: float) -> float | None:
        """Time to the end of the run: the steps left, at the tokens per second given; or what the clock has left."""
        state = self.state
        by_clock = None if self._horizon.seconds is None else max(0.0, self._horizon.seconds - state.elapsed)
        if not tokens_per_second or not state.step:
            return by_clock
        by_steps = (state.total_steps - state.step) * (state.tokens / state.step) / tokens_per_second
        return by_steps if by_clock is None else min(by_clock, by_steps)

    def _interrupted(self) -> bool:
        """Whether any rank was asked to stop."""
        mine = 1.0 if self._guard.requested else 0.0
        return data_parallel.sum_over_ranks([mine], self.device)[0] > 0

    def _message(self, text: str) -> None:
        if not self.callbacks:
            logging.getLogger(__name__).warning(text)
        self._tell("on_message", text)

    def _tell(self, event: str, *arguments: Any) -> None:
        if data_parallel.is_main():
            for callback in self.callbacks:
                hook: Callable[..., None] = getattr(callback, event)
                hook(self, *arguments)


def _close(batches: Iterator[Any]) -> None:
    """End a generator now, so that its threads stop."""
    close = getattr(batches, "close", None)
    if close is not None:
        close()
