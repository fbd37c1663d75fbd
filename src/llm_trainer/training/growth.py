"""Training on a cache that grows: when to look for new chunks, and what becomes of steps, warm-up and learning rate.

The number of steps follows the cache. The warm-up does not: it is a share of the steps that the *whole* text will give,
so that runs on the first tenth and on all of it begin alike. The learning rate never jumps: whenever the expected end
moves, the rest of the schedule is stretched from where it stands.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

from llm_trainer.common.devices import world_size
from llm_trainer.config import TrainingConfig
from llm_trainer.data.growing import GrowingLoader
from llm_trainer.data.plan import describe_gaps
from llm_trainer.training.horizon import Horizon, TrainState
from llm_trainer.training.parallel import data_parallel
from llm_trainer.training.scheduler import resolve_warmup_steps

WAIT_SECONDS = 1.0
TELL_SECONDS = 30.0


def estimate_full_dataset_steps(
    sequences: int, *, sequences_per_step: int, num_epochs: int = 1, epoch_fraction: float = 1.0
) -> int:
    """Optimizer steps that a number of sequences gives, rounded down.

    Args:
        sequences: of the whole data set.
        sequences_per_step: batch size x accumulation x ranks.
        num_epochs: epochs.
        epoch_fraction: share of the sequences that an epoch serves.

    Example:
        >>> [estimate_full_dataset_steps(n, sequences_per_step=72, num_epochs=5, epoch_fraction=0.8)
        ...  for n in (352_217, 472_240, 2_500_000)]
        [19567, 26235, 138888]
    """
    # In whole numbers: 0.8 is not a binary fraction, and a step must not hang on its last digit.
    return sequences * round(epoch_fraction * 1_000_000) * num_epochs // (sequences_per_step * 1_000_000)


def warn_about_small_cache(warmup_steps: int, current_steps: int) -> str | None:
    """A sentence if the present cache ends before the warm-up does, else None."""
    if warmup_steps <= current_steps:
        return None
    return (
        f"the cache is small: it gives {current_steps:,} steps, and the warm-up, planned for the whole text, takes "
        f"{warmup_steps:,}; pack more, or set training.warmup_steps"
    )


def follow_growth(
    loader: Any, config: TrainingConfig, message: Callable[[str], None], stopping: Callable[[], bool]
) -> GrowthFollower | None:
    """A :class:`GrowthFollower`, if ``loader`` serves a growing cache."""
    if not isinstance(loader, GrowingLoader):
        return None
    return GrowthFollower(loader, config, message, stopping)


class GrowthFollower:
    """Keeps a run in step with its growing cache.

    Args:
        loader: serves the cache.
        config: of the run.
        message: called with sentences for people.
        stopping: whether a person has asked the run to stop.
    """

    def __init__(
        self,
        loader: GrowingLoader,
        config: TrainingConfig,
        message: Callable[[str], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._loader = loader
        self._config = config
        self._world_size = world_size()
        self._message = message
        self._stopping = stopping
        self._by_epochs = config.max_steps is None and config.max_minutes is None
        if not loader.segments:
            loader.grow(self._first_chunks())

    def follow(self, state: TrainState, horizon: Horizon) -> bool:
        """Make sure that the sequences of the next step are known; call before each step.

        Returns:
            Whether there is a new segment: the caller then plans anew and takes a new iterator.
        """
        loader = self._loader
        after = state.sequences + self._config.sequences_per_step(self._world_size)
        if self._is_by_sequences(horizon):
            # Look before the last step of what there is: after it, the run would be over.
            if after < min(loader.known, horizon.sequences or 0):
                return False
        elif after <= loader.known:
            return False
        units = self._wait(lambda: loader.cache.complete or not self._should_wait(horizon))
        if not units and horizon.sequences is not None and horizon.sequences <= loader.known:
            return False  # the run ends here, and there is nothing to add
        loader.grow(units)
        if units:
            self._message(f"the cache has grown: {self._progress()}")
        for unit, reason in sorted(loader.cache.damaged.items()):
            self._message(f"chunk {unit} is left out: {reason}")
        return True

    def _is_by_sequences(self, horizon: Horizon) -> bool:
        """Whether the run ends with the sequences that there are, and so has to look for more before that."""
        return horizon.sequences is not None and (self._by_epochs or self._config.num_epochs is not None)

    def _first_chunks(self) -> list[int]:
        """What is there at the start; where a packer has only just begun, what it makes first."""
        being_packed = self._loader.cache.is_being_packed
        return self._wait(lambda: self._stopping() or not self._agree_flag(being_packed))

    def _wait(self, enough: Callable[[], bool]) -> list[int]:
        """Wait for new units, until there are some or ``enough``."""
        told = -math.inf
        while True:
            units = self._agree(self._loader.cache.arrived)
            if units:
                return units
            if enough():
                # Once more: a packer that has ended may have written its last chunks between the two looks.
                return self._agree(self._loader.cache.arrived)
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self._message(f"waiting for the packer: {self._progress()}")
            time.sleep(WAIT_SECONDS)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return self._loader.state_dict()

    def resume(self, saved: dict[str, Any] | None) -> None:
        """Go on with the segments of a checkpoint, and queue what has arrived since."""
        if saved is None:
            return
        self._loader.load_state_dict(saved)
        units = self._agree(self._loader.cache.arrived)
        if units:
            self._loader.grow(units)
            self._message(f"the cache has grown since the checkpoint: {self._progress()}")

    def schedule(self, state: TrainState) -> None:
        """Set the warm-up, and the end towards which the learning rate goes, from what is expected of the cache."""
        whole_from_the_start = self._loader.cache.complete and not state.schedule_steps
        if self._config.max_minutes is not None or whole_from_the_start:
            return  # the clock ends the run, or nothing will come: the schedule is the usual one
        planned = self._steps(self._loader.cache.planned_sequences())
        growing = not self._loader.cache.complete and self._agree_flag(self._loader.cache.is_being_packed)
        end = max(planned, state.step + 1) if growing else state.total_steps
        if not state.schedule_steps:
            state.schedule_steps = planned
            state.warmup_steps = resolve_warmup_steps(self._config, planned)
            warning = warn_about_small_cache(state.warmup_steps, state.total_steps)
            if warning and not self._loader.cache.complete:
                self._message(warning)
        over = state.step > 0 and state.schedule_position[0] >= state.schedule_steps
        state.aim_schedule(end)
        if over and state.total_steps > state.step:
            self._message(
                "the learning rate had come to its end before the cache grew, and stays there; for another rise and "
                "fall, start a new run from this model"
            )

    def _steps(self, sequences: int) -> int:
        """Steps of the run if the cache held so many sequences."""
        config = self._config
        if config.max_steps is not None:
            return config.max_steps
        return max(
            1,
            estimate_full_dataset_steps(
                sequences,
                sequences_per_step=config.sequences_per_step(self._world_size),
                num_epochs=config.num_epochs or 1,
                epoch_fraction=self._loader.epoch_fraction,
            ),
        )

    def _should_wait(self, horizon: Horizon) -> bool:
        """A run over whole epochs waits for what is being packed; one that ends by steps or time goes on."""
        at_end = horizon.sequences is not None and horizon.sequences <= self._loader.known
        if not (self._by_epochs and at_end):
            return False
        return self._agree_flag(lambda: not self._stopping() and self._loader.cache.is_being_packed())

    def _progress(self) -> str:
        cache = self._loader.cache
        missing = [unit for unit in cache.plan.units if unit.number not in set(cache.units)]
        text = f"{len(cache.units):,} of {len(cache.plan.units):,} chunks, {len(cache):,} sequences"
        return f"{text}; missing: {describe_gaps(missing)}" if missing else f"{text}, complete"

    def _agree(self, look: Callable[[], list[int]]) -> list[int]:
        """What rank 0 sees, on all ranks: a chunk may appear between two looks."""
        units: Any = json.loads(data_parallel.from_main(lambda: json.dumps(look())))
        return [int(unit) for unit in units]

    def _agree_flag(self, ask: Callable[[], bool]) -> bool:
        return data_parallel.from_main(lambda: "yes" if ask() else "") == "yes"
