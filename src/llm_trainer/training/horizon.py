"""How long a run is: by epochs, by steps, or by the clock."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from llm_trainer.config import TrainingConfig
from llm_trainer.training.scheduler import resolve_warmup_steps

FIRST_GUESS_STEPS = 1000
"""Total steps that a timed run assumes until it has measured some."""
MEASURED_STEPS = 2
"""Steps after which a timed run trusts its own speed; the first one is slower (allocation, compilation)..."""
MEASURED_SHARE = 0.05
"""...unless they have used this share of the time: then there will not be many."""


@dataclass
class TrainState:
    """Where a run is. Everything here is saved with a checkpoint."""

    step: int = 0
    """Updates done, skipped ones included."""
    sequences: int = 0
    """Sequences consumed over all epochs and ranks; with the seed, this is the whole state of the data order."""
    tokens: int = 0
    """Tokens consumed."""
    elapsed: float = 0.0
    """Seconds of training, over all resumed parts."""
    skipped_steps: int = 0
    """Steps without an update because a gradient was not finite."""
    total_steps: int = 0
    warmup_steps: int = 0
    best_loss: float | None = None
    """Lowest validation loss, for patience."""
    best_saved_loss: float | None = None
    best_step: int | None = None
    """The checkpoint with the lowest validation loss, and that loss; it is never deleted."""
    evaluations_without_improvement: int = 0
    schedule_steps: int = 0
    """Length of the learning rate's schedule, if it is not ``total_steps``: a growing cache fixes it once..."""
    schedule_end: int = 0
    """...and this is the step at which it is expected to be over."""
    anchor_step: int = 0
    anchor_position: float = 0.0
    """A step, and the position in the schedule that it had when the expected end last moved."""

    @property
    def schedule_position(self) -> tuple[float, int]:
        """Where the learning rate is in its schedule, and how long that is, in steps."""
        if not self.schedule_steps:
            return self.step, self.total_steps
        # The warm-up takes as many steps as were planned for it; only what comes after it is stretched.
        warm = self.anchor_step + max(0.0, self.warmup_steps - self.anchor_position)
        if self.step <= warm:
            return self.anchor_position + self.step - self.anchor_step, self.schedule_steps
        position = max(self.anchor_position, float(self.warmup_steps))
        pace = (self.schedule_steps - position) / max(1.0, self.schedule_end - warm)
        return position + pace * (self.step - warm), self.schedule_steps

    def aim_schedule(self, end: int) -> None:
        """Stretch or shorten what is left of the schedule after the warm-up to end at step ``end``; nothing jumps."""
        if not self.schedule_end:
            self.anchor_step, self.anchor_position, self.schedule_end = self.step, float(self.step), end
        elif end != self.schedule_end:
            position, _ = self.schedule_position
            self.anchor_step, self.anchor_position, self.schedule_end = self.step, position, end

    def take_validation(self, loss: float, *, saved: bool) -> None:
        """Remember the best losses and count the validations since.

        Args:
            loss: of a validation after :attr:`step`.
            saved: whether there is a checkpoint of that step.
        """
        finite = math.isfinite(loss)
        if saved and finite and (self.best_saved_loss is None or loss < self.best_saved_loss):
            self.best_saved_loss, self.best_step = loss, self.step
        if finite and (self.best_loss is None or loss < self.best_loss):
            self.best_loss, self.evaluations_without_improvement = loss, 0
        else:
            self.evaluations_without_improvement += 1

    def to_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainState:
        """From the checkpoint."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


@dataclass(frozen=True)
class Horizon:
    """The end of a run.

    Args:
        sequences: sequences to consume in all, or None when only steps or time end the run.
        steps: updates to make, or None when only time ends the run.
        seconds: wall-clock budget, or None.
    """

    sequences: int | None
    steps: int | None
    seconds: float | None

    @classmethod
    def plan(
        cls,
        config: TrainingConfig,
        sequences_per_epoch: int,
        world_size: int,
        state: TrainState | None = None,
        *,
        at_most: int | None = None,
    ) -> Horizon:
        """Work out the end from the configuration and, when resuming, from where the run is.

        Epochs end after their last sequence, with a last step over what remains; ``max_steps`` ends earlier. A run
        resumed with another batch size or number of ranks still sees every sequence. Data that come to an end of their
        own after ``at_most`` sequences, as a mixture of used-up sources does, end the run there.
        """
        state = state or TrainState()
        per_step = config.sequences_per_step(world_size)
        epochs = config.num_epochs
        if epochs is None and config.max_steps is None and config.max_minutes is None:
            epochs = 1
        sequences = sequences_per_epoch * epochs if epochs is not None else at_most
        if sequences is not None and at_most is not None:
            sequences = min(sequences, at_most)
        steps = None
        if sequences is not None:
            steps = state.step + math.ceil(max(0, sequences - state.sequences) / per_step)
        if config.max_steps is not None:
            steps = min(steps, config.max_steps) if steps is not None else config.max_steps
            limit = state.sequences + max(0, steps - state.step) * per_step
            sequences = min(sequences, limit) if sequences is not None else limit
        return cls(sequences, steps, config.max_minutes * 60 if config.max_minutes is not None else None)

    def update(self, state: TrainState, config: TrainingConfig) -> None:
        """Refresh the state's total and warm-up steps. A timed run re-estimates them from its own speed, so that the
        schedule ends when the time does; warm-up is fixed once it is over."""
        warming_up = state.step <= state.warmup_steps and not state.schedule_steps
        state.total_steps = self._total_steps(state)
        if warming_up:
            state.warmup_steps = resolve_warmup_steps(config, state.total_steps)

    def _total_steps(self, state: TrainState) -> int:
        if self.seconds is None:
            assert self.steps is not None
            return self.steps
        if not state.step or (state.step < MEASURED_STEPS and state.elapsed < MEASURED_SHARE * self.seconds):
            estimate = FIRST_GUESS_STEPS
        else:
            left = max(0.0, self.seconds - state.elapsed)
            estimate = state.step + max(1, round(left * state.step / state.elapsed))
        return min(estimate, self.steps) if self.steps is not None else estimate

    def reached(self, state: TrainState) -> bool:
        """Whether the run is over."""
        return (
            (self.steps is not None and state.step >= self.steps)
            or (self.sequences is not None and state.sequences >= self.sequences)
            or (self.seconds is not None and state.elapsed >= self.seconds)
        )

    def seconds_left(self, state: TrainState, tokens_per_second: float) -> float | None:
        """Time to the end of the run: the steps left, at the tokens per second given; or what the clock has left."""
        by_clock = None if self.seconds is None else max(0.0, self.seconds - state.elapsed)
        if not tokens_per_second or not state.step:
            return by_clock
        by_steps = (state.total_steps - state.step) * (state.tokens / state.step) / tokens_per_second
        return by_steps if by_clock is None else min(by_clock, by_steps)


TIMES_PER_RUN = 10
"""How often a run validates and saves when no interval is configured..."""
LEAST_INTERVAL = 20
"""...but not more often than after so many steps: a run of 30 steps is not half validation."""


def due(step: int, total_steps: int, every: int | None, *, at_most: int | None = None) -> bool:
    """Whether something happens after ``step``: every so many steps if that is given, else about ten times in a run.

    Args:
        step: updates done.
        total_steps: updates in the run; the estimate of a timed run may change from step to step.
        every: configured interval.
        at_most: the largest interval when none is configured.
    """
    if every is not None:
        return step % every == 0
    if at_most is not None and step % at_most == 0:
        return True
    total_steps = max(1, total_steps)
    parts = max(1, min(TIMES_PER_RUN, total_steps // LEAST_INTERVAL))
    return step * parts // total_steps > (step - 1) * parts // total_steps
