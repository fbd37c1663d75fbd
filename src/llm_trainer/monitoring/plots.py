"""Charts as pictures: inline SVG made here without any package, PNG through matplotlib where that is installed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import atomic_write, write_text
from llm_trainer.common.optional import require
from llm_trainer.monitoring.charts import Chart, Line, Point, format_value, log_ticks, run_charts, thin, ticks
from llm_trainer.monitoring.metrics_file import read_metrics_log

# Blue, orange and green that differ in lightness too, so that they stay apart for colour-blind readers and in grey.
_LIGHT = ("#2563c9", "#c2570c", "#0f7a55")
_DARK = ("#7fb0ff", "#ffa45c", "#5fd0a2")

CHART_CSS = """
.chart text { font: 12px system-ui, sans-serif; fill: var(--muted, #5b6472); }
.chart .label { fill: var(--text, #1b2330); }
.chart .grid { stroke: var(--line, #dfe3e9); stroke-width: 1; }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.chart .faint { stroke-width: 1; opacity: .35; }
.chart .c1 { stroke: var(--c1, #2563c9); } .chart .c2 { stroke: var(--c2, #c2570c); }
.chart .c3 { stroke: var(--c3, #0f7a55); } .chart circle { fill: var(--panel, #fff); stroke-width: 2; }
""".strip()

_STANDALONE_CSS = f"""
svg {{ --text: #1b2330; --muted: #5b6472; --line: #dfe3e9; --panel: #fff;
  --c1: {_LIGHT[0]}; --c2: {_LIGHT[1]}; --c3: {_LIGHT[2]}; background: var(--panel); }}
@media (prefers-color-scheme: dark) {{ svg {{ --text: #e7ebf1; --muted: #9aa5b4; --line: #333c49; --panel: #171c24;
  --c1: {_DARK[0]}; --c2: {_DARK[1]}; --c3: {_DARK[2]}; }} }}
{CHART_CSS}
""".strip()

_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 16, 34, 40


def svg_chart(chart: Chart, *, width: int = 520, height: int = 260, standalone: bool = False) -> str:
    """A chart as an ``<svg>`` element; colours come from CSS variables, so it follows the page's light or dark theme.

    Args:
        chart: what to draw.
        width, height: pixels at scale 1.
        standalone: bring styles and legend along, for a file of its own; a page shows :func:`html_legend` beside it.
    """
    frame = _Frame.around(chart, width, height, top=_TOP if standalone else 10)
    name = escape(chart.title)
    style = f"<style>{_STANDALONE_CSS}</style>" if standalone else ""
    namespace = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{name}"{namespace}>',
        f"<title>{name}</title>{style}",
        *_axes(frame),
        *(_unit(chart, frame) if standalone else ()),
        *[_path(line, frame) for line in chart.lines if line.points],
        *(_legend(chart) if standalone else ()),
        "</svg>",
    ]
    return "\n".join(parts)


def html_legend(chart: Chart) -> str:
    """The legend of a chart as HTML, which wraps where the page is narrow."""
    swatch = '<svg class="chart swatch" viewBox="0 0 18 4" aria-hidden="true"><path class="{}" d="M0 2h18"/></svg>'
    items = "".join(f"<span>{swatch.format(style)}{escape(text)}</span>" for style, text in _entries(chart))
    return f'<div class="legend">{items}</div>'


def write_plots(run_dir: str | Path, folder: str | Path | None = None, image_format: str = "svg") -> list[Path]:
    """Write the charts of a run, one file each.

    Args:
        run_dir: the run's folder.
        folder: where to; ``run_dir/plots`` when left out.
        image_format: ``"svg"``, or ``"png"`` (needs matplotlib).

    Returns:
        The files.

    Raises:
        UserError: another format, a run without metrics, matplotlib missing, or the folder cannot be written.
    """
    if image_format not in ("svg", "png"):
        raise UserError(f"unknown picture format {image_format!r}", hint="choose svg or png")
    charts = run_charts(read_metrics_log(run_dir))
    if not charts:
        raise UserError(f"{run_dir} has no metrics to plot yet", hint="a run writes its first ones after some steps")
    target = Path(folder) if folder is not None else Path(run_dir) / "plots"
    paths = []
    for chart in charts:
        path = target / f"{chart.key}.{image_format}"
        if image_format == "svg":
            write_text(path, svg_chart(chart, width=900, height=420, standalone=True) + "\n")
        else:
            _write_png(chart, path)
        paths.append(path)
    return paths


@dataclass(frozen=True)
class _Frame:
    """The plotting area and the scales of its axes."""

    width: int
    height: int
    top: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    logarithmic: bool

    @classmethod
    def around(cls, chart: Chart, width: int, height: int, *, top: int) -> _Frame:
        points = [point for line in chart.lines for point in line.points]
        x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
        y_low, y_high = min(y for _, y in points), max(y for _, y in points)
        if chart.logarithmic:
            y_low, y_high = y_low / 1.1, y_high * 1.1
        else:
            margin = (y_high - y_low) * 0.05 or abs(y_high) * 0.05 or 1.0
            y_low = min(0.0, y_low) if chart.from_zero else y_low - margin
            y_high += margin
        if x_low == x_high:
            x_low, x_high = x_low - 1, x_high + 1
        return cls(width, height, top, (x_low, x_high), (y_low, y_high), chart.logarithmic)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        scale: Callable[[float], float] = math.log10 if self.logarithmic else float
        low, high = scale(self.y_range[0]), scale(self.y_range[1])
        return self.height - _BOTTOM - (scale(value) - low) / (high - low) * (self.height - self.top - _BOTTOM)


def _axes(frame: _Frame) -> list[str]:
    right, bottom = frame.width - _RIGHT, frame.height - _BOTTOM
    parts = []
    for value in log_ticks(*frame.y_range) if frame.logarithmic else ticks(*frame.y_range, count=frame.height // 45):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{format_value(value)}</text>')
    # A label of six characters needs about 70 pixels.
    for value in ticks(*frame.x_range, count=max(3, frame.width // 110)):
        if value != round(value):
            continue  # there is no half step
        x = frame.x(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{format_value(value)}</text>')
    parts.append(f'<text x="{(_LEFT + right) / 2:.0f}" y="{frame.height - 6}" text-anchor="middle">step</text>')
    return parts


def _unit(chart: Chart, frame: _Frame) -> list[str]:
    middle = (frame.top + frame.height - _BOTTOM) / 2
    return [
        f'<text x="12" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 12 {middle:.0f})">'
        f"{escape(chart.unit)}</text>"
    ]


def _path(line: Line, frame: _Frame) -> str:
    points = thin(line.points)
    coordinates = [(frame.x(x), frame.y(y)) for x, y in points]
    style = f"line c{line.color}" + (" faint" if line.faint else "")
    moves = " ".join(f"{x:.1f},{y:.1f}" for x, y in coordinates)
    drawn = f'<polyline class="{style}" points="{moves}"/>' if len(points) > 1 else ""
    if not line.dots and len(points) > 1:
        return drawn
    dots = [
        f'<circle class="c{line.color}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{_describe(point)}</title></circle>'
        for (x, y), point in zip(coordinates, points)
    ]
    return drawn + "".join(dots)


def _describe(point: Point) -> str:
    return f"step {point[0]:,.0f}: {format_value(point[1])}"


def _entries(chart: Chart) -> list[tuple[str, str]]:
    """``(style, text)`` of each line: its name and, but for raw values, where it stands now."""
    return [
        (
            f"line c{line.color}" + (" faint" if line.faint else ""),
            line.label if line.faint else f"{line.label}: {format_value(line.points[-1][1])}",
        )
        for line in chart.lines
        if line.points
    ]


def _legend(chart: Chart) -> list[str]:
    """One row above the plot."""
    parts = []
    x = float(_LEFT)
    for style, text in _entries(chart):
        parts.append(f'<line class="{style}" x1="{x:.0f}" x2="{x + 18:.0f}" y1="14" y2="14"/>')
        parts.append(f'<text class="label" x="{x + 24:.0f}" y="18">{escape(text)}</text>')
        x += 24 + 6.4 * len(text) + 18
    return parts


def _write_png(chart: Chart, path: Path) -> None:
    purpose = "drawing PNG charts"
    figure_module: Any = require("matplotlib.figure", extra="plots", purpose=purpose)
    # A Figure of its own, not pyplot: no global state, no window system.
    figure = figure_module.Figure(figsize=(9, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for line in chart.lines:
        if line.points:
            xs, ys = zip(*thin(line.points))
            _plot_line(axes, line, xs, ys)
    axes.set(title=chart.title, xlabel="step", ylabel=chart.unit)
    if chart.logarithmic:
        axes.set_yscale("log")
    elif chart.from_zero:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def _plot_line(axes: Any, line: Line, xs: Sequence[float], ys: Sequence[float]) -> None:
    axes.plot(
        xs,
        ys,
        label=line.label,
        color=_LIGHT[line.color - 1],
        linewidth=1 if line.faint else 2,
        alpha=0.35 if line.faint else 1.0,
        marker="o" if line.dots or len(xs) == 1 else None,
    )
