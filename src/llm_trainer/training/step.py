"""One optimizer update: gradients of all micro-steps, their sum over ranks, scaling and clipping, the update.

A GPU runs behind the program, and every number that the program looks at makes it wait until the GPU has caught up. So
a step looks once: loss, counts and gradient norm come over together, after the last backward pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llm_trainer.common.devices import rank, world_size
from llm_trainer.common.errors import UserError
from llm_trainer.config import TrainingConfig
from llm_trainer.training.balancing import RouterBalancing
from llm_trainer.training.ema import EMA
from llm_trainer.training.horizon import TrainState
from llm_trainer.training.microbatch import GradientAccumulator, first_line, is_out_of_memory
from llm_trainer.training.objectives import Batch, LossTerms
from llm_trainer.training.optimizer import set_learning_rate
from llm_trainer.training.parallel import data_parallel
from llm_trainer.training.precision import LossScaler, Precision
from llm_trainer.training.scheduler import learning_rate_factor
from llm_trainer.training.utils import GradientClipping, gradient_norm


@dataclass(frozen=True)
class StepResult:
    """What a step did, over all micro-batches and ranks."""

    loss: float
    """Mean over the targets, nats per token."""
    targets: int
    tokens: int
    """Tokens read, without padding."""
    grad_norm: float
    """Of the mean loss, before clipping."""
    updated: bool
    """False: the gradient was not finite, and the weights stayed as they were."""
    seconds: float
    """Wall clock since the step before; the mean over ranks."""
    stop: bool
    """Whether any rank was asked to stop."""
    metrics: dict[str, float | Tensor]
    """What the objective added, of this rank."""


class OptimizerStep:
    """Makes steps. Holds what they share, so that a step looks nothing up twice.

    Args:
        model, optimizer: changed by every step.
        loss: of one micro-batch on the device.
        config: how to train.
        device: where the model is.
        precision: of forward passes.
        scaler: of the loss, for float16.
        ema: updated after each step, if given.
        message: called with what the person should know.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Batch], LossTerms],
        config: TrainingConfig,
        *,
        device: torch.device,
        precision: Precision,
        scaler: LossScaler,
        ema: EMA | None = None,
        message: Callable[[str], None],
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._config = config
        self._device = device
        self._scaler = scaler
        self._ema = ema
        self._parameters = list(model.parameters())
        self._clip = GradientClipping(config.max_grad_norm)
        self._ranks = world_size()
        self._message = message
        self._clock = time.perf_counter()
        self.balancing = RouterBalancing(model, config.router_bias_rate, config.router_aux_loss)
        self.accumulator = GradientAccumulator(
            [*self._parameters, *self.balancing.tensors],
            loss,
            device=device,
            autocast=precision.autocast,
            seed=config.seed,
            rank=rank(),
            message=message,
            effective_batch=config.sequences_per_step(),
        )

    def run(self, micro_batches: Sequence[Batch], state: TrainState, *, stop: bool = False) -> StepResult:
        """One update.

        Args:
            micro_batches: on the host or on the device.
            state: where the run is; read only.
            stop: whether this rank was asked to stop; the result says it for all.

        Raises:
            UserError: memory does not suffice, not even for one row at a time.
        """
        self.balancing.begin(self._scaler.scale)
        sums = self.accumulator.add_up(micro_batches, state.step, self._scaler.scale)
        if self._ranks > 1:
            data_parallel.sum_gradients(self._model)
        self.balancing.take()
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        mine = [sums.total, sums.count, sums.tokens, self._lap() if self._ranks > 1 else 0.0, float(stop)]
        *ours, norm = self._read(mine, gradient_norm(gradients))
        total, count, tokens, seconds, stops = ours
        scale = 1 / (max(1.0, count) * self._scaler.scale)
        norm *= scale
        finite = math.isfinite(norm)
        if finite:
            self._clip.apply(gradients, norm, scale)
            self._update(state)
        self._scaler.update(overflow=not finite)
        return StepResult(
            loss=total / max(1.0, count),
            targets=int(count),
            tokens=int(tokens),
            grad_norm=norm,
            updated=finite,
            seconds=seconds / self._ranks if self._ranks > 1 else self._lap(),
            stop=stops > 0,
            metrics=sums.metrics,
        )

    def _update(self, state: TrainState) -> None:
        position, length = state.schedule_position
        set_learning_rate(self._optimizer, learning_rate_factor(self._config, position, length, state.warmup_steps))
        try:
            self._optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # Some weights may have changed already, so this cannot be tried again.
            raise UserError(
                f"out of memory in the update of the weights: the state of {self._config.optimizer} does not fit "
                f"({first_line(error)})",
                hint="choose training.optimizer=adafactor, or train a smaller model",
            ) from None
        self.balancing.update()
        if self._ema is not None:
            self._ema.update()

    def _read(self, mine: Sequence[float | Tensor], norm: Tensor) -> list[float]:
        """The sums of all ranks and the norm (equal on all), as numbers: the one wait of a step."""
        if self._ranks == 1 and self._device.type == "cpu":
            return [*map(float, mine), float(norm)]
        # Counts of tokens need more than float32's 24 bits; Apple's GPUs have no float64.
        dtype = torch.float32 if self._device.type == "mps" else torch.float64
        numbers = torch.stack([_scalar(value, dtype, self._device) for value in (*mine, norm)])
        if self._ranks > 1:
            dist.all_reduce(numbers[:-1])
        values: list[float] = numbers.tolist()
        return values

    def _lap(self) -> float:
        """Seconds since the last call."""
        last, self._clock = self._clock, time.perf_counter()
        return self._clock - last


def _scalar(value: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number on the device. A number of the host goes as an argument of a kernel: copying it would wait."""
    if isinstance(value, Tensor):
        return value.detach().to(dtype=dtype, device=device)
    return torch.full((), float(value), dtype=dtype, device=device)
