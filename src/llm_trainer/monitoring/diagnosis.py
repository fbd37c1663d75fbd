"""One sentence on how well the model fits its text: still learning, levelled off, or learning by heart."""

from __future__ import annotations

from dataclasses import dataclass

from llm_trainer.monitoring.charts import Point, smooth
from llm_trainer.monitoring.metrics_file import MetricsLog

# Validations of one small model differ by about a hundredth from step to step; less than that is noise.
_NOTICEABLE = 0.01
# One validation says nothing about a trend and two cannot tell a turn from noise.
_FEWEST_VALIDATIONS = 3


@dataclass(frozen=True)
class Diagnosis:
    """What the curves say.

    Attributes:
        verdict: ``learning``, ``levelled off``, ``overfitting``, ``not learning`` or ``unknown``.
        text: the same in sentences, with the numbers and what to try.
        best_step: the step of the lowest validation loss.
    """

    verdict: str
    text: str
    best_step: int | None = None


def diagnose(log: MetricsLog) -> Diagnosis:
    """Compare the trends of training and validation loss.

    *Overfitting*: validation loss has risen by more than 1 % above its lowest while training loss fell further.
    *Learning* (underfitting: the model could still take more): it fell by more than 1 % over the last third.
    *Not learning*: it is not below where it began. Otherwise it has *levelled off*.
    """
    validation: list[Point] = [(step, value) for step, value in log.series("validation/loss")]
    training = smooth(log.series("train/loss"))
    if len(validation) < _FEWEST_VALIDATIONS or not training:
        return Diagnosis(
            "unknown",
            f"Too few validations to judge the fit ({len(validation)}; {_FEWEST_VALIDATIONS} are needed). "
            "Give the run some held-out text and a smaller training.eval_steps.",
        )
    best_step, best = min(validation, key=lambda point: point[1])
    first, (last_step, last) = validation[0][1], validation[-1]
    then, now = _value_at(training, best_step), _value_at(training, last_step)
    gap = f"At step {last_step:,} validation loss is {last:.3f} and training loss {now:.3f}."
    if last > best * (1 + _NOTICEABLE) and now < then:
        text = (
            f"The model is overfitting: validation loss was lowest at step {best_step:,.0f} ({best:.3f}) and has risen "
            f"to {last:.3f} since, while training loss went on falling ({then:.3f} to {now:.3f}). More text, fewer "
            f"epochs, dropout or weight decay would help; a checkpoint near step {best_step:,.0f} is the better one."
        )
        return Diagnosis("overfitting", text, int(best_step))
    if best > first * (1 - _NOTICEABLE):
        text = (
            f"The model is not learning: validation loss began at {first:.3f} and its lowest is {best:.3f}. "
            f"Look at the learning rate and at the text. {gap}"
        )
        return Diagnosis("not learning", text, int(best_step))
    earlier = _value_at(validation, last_step - (last_step - validation[0][0]) / 3)
    if last < earlier * (1 - _NOTICEABLE):
        text = (
            f"The model is still learning (underfitting): validation loss fell from {earlier:.3f} to {last:.3f} over "
            f"the last third of the run. Training for longer will make it better. {gap}"
        )
        return Diagnosis("learning", text, int(best_step))
    text = (
        f"Validation loss has levelled off: {earlier:.3f} to {last:.3f} over the last third of the run, with no sign "
        f"of overfitting. A larger model or more text would take it further than more steps. {gap}"
    )
    return Diagnosis("levelled off", text, int(best_step))


def _value_at(points: list[Point], step: float) -> float:
    """The value of the last point that is not after ``step``; the first point's before it."""
    value = points[0][1]
    for at, candidate in points:
        if at > step:
            break
        value = candidate
    return value
