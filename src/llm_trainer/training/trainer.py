"""The one gradient loop.

Everything that is trained by gradients goes through :meth:`Trainer.fit`; what differs between pretraining, fine-tuning
and the rest is the *objective* and the *batches*. One step (``step.py``) is: accumulate the gradient of the loss sum
over the micro-steps, add it over ranks, divide by the number of targets and clip in one pass, update. After it, save
before evaluating: an evaluation that fails must not cost the work before it.
"""

from __future__ import annotations

import contextlib
import json
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
from torch import Tensor, nn

from llm_trainer.common import devices
from llm_trainer.common.allocator import freed_memory_reused
from llm_trainer.common.errors import TrainingError, UserError
from llm_trainer.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from llm_trainer.models import TransformerLM
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
from llm_trainer.training.growth import follow_growth
from llm_trainer.training.horizon import Horizon, TrainState, due
from llm_trainer.training.interrupt import InterruptGuard
from llm_trainer.training.meter import Meter
from llm_trainer.training.modules import prepare_model
from llm_trainer.training.objectives import Batch, LossTerms, Objective, default_objective
from llm_trainer.training.optimizer import create_optimizer, set_compute_dtype
from llm_trainer.training.parallel import data_parallel
from llm_trainer.training.precision import LossScaler, Precision, resolve_precision
from llm_trainer.training.resume import check_resumable
from llm_trainer.training.step import OptimizerStep, StepResult
from llm_trainer.training.tuning import Tuning, tune, untuned
from llm_trainer.training.utils import denormals_flushed
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
        objective: what to minimise; next-token prediction when left out, which is for decoders.
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
        self.objective: Objective = objective or default_objective(model, self.config.z_loss)
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.callbacks = list(callbacks)
        self.state = TrainState()
        self.loss = math.nan
        self.last_metrics: dict[str, float] = {}
        self.grad_norm = 0.0
        self.objective_metrics: dict[str, float | Tensor] = {}
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
        with data_parallel.process_group(self.device), InterruptGuard() as self._guard, denormals_flushed():
            try:
                self._set_up(data, eval_data)
                if resume:
                    self._resume()
                self._tell("on_start")
                with freed_memory_reused(self.tuning.reuse_memory):
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
        self._world_size = devices.world_size()
        self._loader = as_loader(data, self.tokenizer, self.model, config)
        self._eval_loader = (
            as_loader(eval_data, self.tokenizer, self.model, config, shuffle=False) if eval_data is not None else None
        )
        self._growth = follow_growth(self._loader, config, self._message, self._asked_to_stop)
        self.tuning = self._tune()
        if self.tuning.num_threads is not None:
            torch.set_num_threads(self.tuning.num_threads)
        self.model.to(self.device)
        prepare_model(self.model, config, self.device, compile=self.tuning.compile, message=self._message)
        data_parallel.broadcast_model(self.model)
        self.model.train()
        self.precision = self.tuning.precision
        if self.precision.needs_telling:
            self._message(f"computing in {self.precision.format}: {self.precision.reason}")
        self._scaler = LossScaler.from_config(config, enabled=self.precision.needs_scaler)
        self.optimizer = create_optimizer(self.model, config, compute_dtype=self.precision.dtype)
        self.ema = EMA(self.model, config.ema_decay) if config.use_ema else None
        self._plan()

    def _tune(self) -> Tuning:
        """How to compute, where the configuration leaves it open: the same on all ranks."""
        shape = self.model.config if type(self.model) is TransformerLM else None
        if shape is None:
            return untuned(self.config, self.device)
        plan = Horizon.plan(self.config, len(self._loader), self._world_size, at_most=self._most_sequences)
        tokens = None if plan.sequences is None else plan.sequences * self.sequence_length
        found = data_parallel.from_main(
            lambda: json.dumps(tune(shape, self.config, self.sequence_length, self.device, tokens=tokens).to_dict())
        )
        return Tuning.from_dict(json.loads(found))

    def _plan(self) -> None:
        most, ranks = self._most_sequences, self._world_size
        self._horizon = Horizon.plan(self.config, len(self._loader), ranks, self.state, at_most=most)
        self._horizon.update(self.state, self.config)
        if self._growth is not None:
            self._growth.schedule(self.state)

    @property
    def _most_sequences(self) -> int | None:
        """After how many sequences the data end, for all epochs together; None never."""
        return getattr(self._loader, "total", None)

    def _asked_to_stop(self) -> bool:
        return self._guard.requested is not None

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
        if self.config.precision == "auto" and self.config.use_amp is None:
            # What was measured then, not what a busy machine measures now.
            self.precision = Precision.saved(saved["precision"], self.device.type)
            self._scaler = LossScaler.from_config(self.config, enabled=self.precision.needs_scaler)
            set_compute_dtype(self.optimizer, self.precision.dtype)
        self._scaler.load_state_dict(saved["scaler"])
        if self.ema is not None:
            self.ema.load(loaded.averages)
        self.loss = saved["loss"]
        if self._growth is not None:
            self._growth.resume(saved.get("segments"))
        self._plan()
        # The checkpoint was saved before the validation of its step, which decides about the best one and patience.
        self._owes_validation = self._evaluation_is_due() or self._horizon.reached(self.state)
        self._message(f"resumed {path.name}: {self.state.sequences:,} sequences seen")

    # ------------------------------------------------------------------ the loop

    def _loop(self) -> str:
        config, state = self.config, self.state
        batches = self._loader.batches(state.sequences, self._horizon.sequences)
        per_step = config.sequences_per_step(self._world_size)
        self._optimizer_step = optimizer_step = OptimizerStep(
            self.model,
            self.optimizer,
            self.custom_training_step,
            config,
            device=self.device,
            precision=self.precision,
            scaler=self._scaler,
            ema=self.ema,
            message=self._message,
        )
        meter = Meter()
        self._skips_in_a_row = 0
        if self._owes_validation and self._eval_loader is not None and self._validate_and_judge(saved=True):
            return "finished"
        try:
            while not self._horizon.reached(state):
                if self._growth is not None and self._growth.follow(state, self._horizon):
                    _close(batches)
                    self._plan()
                    batches = self._loader.batches(state.sequences, self._horizon.sequences)
                micro_batches = list(islice(batches, config.gradient_accumulation_steps))
                if not micro_batches:
                    break
                result = optimizer_step.run(micro_batches, state, stop=self._guard.requested is not None)
                remaining = math.inf if self._horizon.sequences is None else self._horizon.sequences - state.sequences
                state.sequences += int(min(per_step, remaining))
                self._take_in(result, meter)
                if self._after_step(result, meter):
                    break
        finally:
            _close(batches)
        return "interrupted" if self._stopped else "finished"

    def _take_in(self, result: StepResult, meter: Meter) -> None:
        """Move on by one step.

        Raises:
            TrainingError: too many steps in a row could not update the weights.
        """
        state = self.state
        self.loss, self.grad_norm = result.loss, result.grad_norm
        self.objective_metrics.update(result.metrics)
        state.tokens += result.tokens
        meter.add(result.loss, result.targets, result.tokens)
        if result.updated:
            self._skips_in_a_row = 0
        else:
            self._skips_in_a_row += 1
            state.skipped_steps += 1
            self._message(f"step {state.step + 1}: a gradient was not finite; the step was skipped")
        if self._skips_in_a_row >= self.config.max_skipped_steps:
            raise TrainingError(
                f"the gradients of {self._skips_in_a_row} steps in a row were not finite (up to step "
                f"{state.step + 1}, loss {result.loss:.4g}); nothing was saved since they began",
                hint="lower training.learning_rate, or look for broken documents in the data",
            )
        state.elapsed += result.seconds
        state.step += 1
        self._horizon.update(state, self.config)

    def _after_step(self, result: StepResult, meter: Meter) -> bool:
        """Log, save and validate when due. Returns whether to stop."""
        config, state = self.config, self.state
        # A signal during the last step changes nothing: the run is complete.
        # Ranks stop together, so with several of them it counts what the step said; one alone need not wait for one.
        asked = result.stop if self._world_size > 1 else self._guard.requested is not None
        interrupted = asked and not self._horizon.reached(state)
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
        self.last_metrics = metrics
        self.state.take_validation(metrics["validation/loss"], saved=saved)
        patience = self.config.early_stopping_patience
        if patience is not None and self.state.evaluations_without_improvement >= patience:
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
            "segments": self._growth.state_dict() if self._growth is not None else None,
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
            **{f"train/{name}": float(value) for name, value in self.objective_metrics.items()},
            **self._optimizer_step.balancing.metrics(),
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
        return self._horizon.seconds_left(self.state, tokens_per_second)

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
