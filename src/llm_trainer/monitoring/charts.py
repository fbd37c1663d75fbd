"""From metrics to lines that can be drawn: which charts there are, smoothing, thinning, axes. No drawing here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

from llm_trainer.monitoring.metrics_file import MetricsLog
from llm_trainer.monitoring.naming import human_count

Point = tuple[float, float]

# More than one point for every two pixels of the widest chart cannot be seen and only makes the file larger.
POINTS_DRAWN = 600


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: for the legend.
        points: ``(step, value)``.
        color: 1, 2 or 3, a place in the palette.
        faint: drawn thin and pale, behind the others.
        dots: every point is marked; for lines of few points.
    """

    label: str
    points: Sequence[Point]
    color: int = 1
    faint: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """One chart over optimizer steps.

    Attributes:
        key: short name, also the name of its file.
        title: heading.
        unit: what the values are, for the axis.
        lines: at least one of them has points.
        from_zero: the value axis starts at 0.
        logarithmic: the value axis is logarithmic.
    """

    key: str
    title: str
    unit: str
    lines: Sequence[Line]
    from_zero: bool = False
    logarithmic: bool = False


def run_charts(log: MetricsLog) -> list[Chart]:
    """The charts of a run: loss, learning rate, speed, gradient norm, memory; those without any value are left out."""
    loss = log.series("train/loss")
    norms = log.series("train/grad_norm")
    speeds = log.series("train/tokens_per_second")
    memory = [(step, value / 2**30) for step, value in log.series("system/memory_rss")]
    device = [(step, value / 2**30) for step, value in log.series("system/memory_device")]
    charts = [
        Chart(
            "loss",
            "Loss",
            "nats per token",
            [
                Line("training, every logged step", loss, faint=True),
                Line("training, smoothed", smooth(loss)),
                Line("validation", log.series("validation/loss"), color=2, dots=True),
            ],
        ),
        Chart("learning_rate", "Learning rate", "", [Line("learning rate", log.series("train/learning_rate"))], True),
        Chart(
            "throughput",
            "Speed",
            "tokens per second",
            [Line("every logged step", speeds, faint=True), Line("smoothed", smooth(speeds))],
            from_zero=True,
        ),
        Chart(
            "grad_norm",
            "Gradient norm, before clipping",
            "",
            [Line("every logged step", norms, faint=True), Line("smoothed", smooth(norms))],
            logarithmic=_spans_decades([value for _, value in norms]),
        ),
        Chart(
            "memory",
            "Memory",
            "GB",
            [Line("process", memory), Line("accelerator", device, color=3)],
            from_zero=True,
        ),
    ]
    return [chart for chart in charts if any(line.points for line in chart.lines)]


def smooth(points: Sequence[Point]) -> list[Point]:
    """The mean over about a twentieth of the points around each one; centred, or it would lag behind a fall."""
    reach = len(points) // 40
    sums = [0.0, *accumulate(value for _, value in points)]
    result = []
    for index, (step, _) in enumerate(points):
        first, last = max(0, index - reach), min(len(points), index + reach + 1)
        result.append((step, (sums[last] - sums[first]) / (last - first)))
    return result


def thin(points: Sequence[Point], limit: int = POINTS_DRAWN) -> list[Point]:
    """At most about ``limit`` points that look the same: the lowest and highest of each stretch, so spikes stay."""
    if len(points) <= limit:
        return list(points)
    kept: list[Point] = [points[0]]
    buckets = max(1, (limit - 2) // 2)
    for index in range(buckets):
        bucket = points[index * len(points) // buckets : (index + 1) * len(points) // buckets]
        low, high = min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])
        kept.extend(sorted({low, high}))
    kept.append(points[-1])
    return sorted(set(kept))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart) from ``low`` to ``high``."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    # Multiples of the step, not repeated sums: 0.1 + 0.2 would show as 0.30000000000000004.
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from ``low`` to ``high``, with 2 and 5 between them where there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(exponents) <= 3 else (1,)
    values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]


def format_value(value: float) -> str:
    """A short number for an axis or a legend: ``26k``, ``3.25``, ``0.0006``, ``1e-05``."""
    size = abs(value)
    if size >= 10_000:
        return human_count(round(value)).replace("K", "k")
    if size >= 1000 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.0e}" if size < 1e-4 else f"{value:.4g}"


def _spans_decades(values: Sequence[float]) -> bool:
    """Whether one spike would flatten everything else on a linear axis (and all values have a logarithm)."""
    return bool(values) and min(values) > 0 and max(values) > 10 * median(values)
