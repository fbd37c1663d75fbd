"""Pictures of the report as inline SVG: the way from raw to kept, histograms, a curve. No package, no script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_trainer.common.web_page import escape
from llm_trainer.corpus.report.html import human_count, number, percent

_FLOW_LEFT, _FLOW_WIDTH, _FLOW_RIGHT, _PAGE = 176, 440, 690, 1080
_REASONS_CHARACTERS = 56


def funnel(rows: Sequence[dict[str, Any]]) -> str:
    """The flow of records through the stages, from top to bottom; what is dropped leaves to the right.

    The width of the band is the number of records. A stage is as tall as the band that leaves it is wide.

    Args:
        rows: of the summary's ``funnel``: ``stage``, ``before``, ``after``, ``reasons``.
    """
    whole = rows[0]["before"] if rows else 0
    if not whole:
        return ""
    scale = _FLOW_WIDTH / whole
    y = 40.0
    shapes = [_text(_FLOW_LEFT - 14, 26, "records", "strong", "end"), _text(_FLOW_LEFT, 26, f"{whole:,}", "strong")]
    edge: list[str] = []  # the right border of the band, from top to bottom
    for index, row in enumerate(rows):
        gone = row["before"] - row["after"]
        thickness = max(gone * scale, 1.0) if gone else 0.0
        height = max(50.0, thickness + 18) if gone else 26.0
        middle = y + height / 2
        right = _FLOW_LEFT + row["after"] * scale
        edge += [f"{right:.1f},{y:.1f}", f"{right:.1f},{y + height:.1f}"]
        shapes.append(_text(_FLOW_LEFT - 14, middle + 4, _label(row["stage"], 22), "name", "end"))
        if gone:
            shapes.append(_leaving("gone" if index else "lost", right, y, middle, thickness))
            amount = f"−{gone:,}  ·  {percent(gone, row['before'])}"
            shapes.append(_text(_FLOW_RIGHT + 12, middle - 3, amount, "strong"))
            shapes.append(_text(_FLOW_RIGHT + 12, middle + 14, _reasons(row), ""))
        y += height
    shapes.append(f'<path class="kept band" d="M{_FLOW_LEFT},40 L{" L".join(edge)} L{_FLOW_LEFT},{y:.1f} Z"/>')
    kept = rows[-1]["after"]
    shapes.append(_text(_FLOW_LEFT - 14, y + 22, "kept", "strong", "end"))
    shapes.append(_text(_FLOW_LEFT, y + 22, f"{kept:,}  ·  {percent(kept, whole)} of all records", "strong"))
    return _svg(_PAGE, y + 34, "The way of the records", shapes)


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[Sequence[int]], *, width: int = 520, height: int = 200
) -> str:
    """Bars of equal width over bins, from bottom to top in layers.

    Args:
        title: for readers who cannot see the picture.
        edges: borders of the bins, one more than there are bins.
        counts: layers of counts, the first at the bottom: kept, then dropped.
    """
    bins = len(edges) - 1
    tallest = max((sum(layer[index] for layer in counts) for index in range(bins)), default=0)
    if bins < 1 or not tallest:
        return ""
    left, top, bottom = 46, 12, height - 24
    step = (width - left - 12) / bins
    shapes = []
    for part in (0.5, 1.0):
        y = bottom - part * (bottom - top)
        shapes.append(f'<line class="axis" x1="{left}" x2="{width - 12}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(_text(left - 6, y + 4, human_count(round(tallest * part)) if tallest > 1 else "", "", "end"))
    for index in range(bins):
        y = float(bottom)
        tip = f"{number(edges[index])} to {number(edges[index + 1])}: " + " + ".join(
            f"{row[index]:,}" for row in counts
        )
        for layer, row in enumerate(counts):
            if row[index]:
                size = max(1.0, row[index] / tallest * (bottom - top))
                y -= size
                shapes.append(
                    f'<rect class="{("kept", "gone")[layer]}" x="{left + index * step + 0.5:.1f}" y="{y:.1f}" '
                    f'width="{max(step - 1, 0.8):.1f}" height="{size:.1f}"><title>{escape(tip)}</title></rect>'
                )
    shapes.append(f'<line class="axis" x1="{left}" x2="{width - 12}" y1="{bottom}" y2="{bottom}"/>')
    every = max(1, -(-bins // max(2, width // 75)))  # a label needs about 60 pixels
    for index in range(0, bins + 1, every):
        anchor = "middle" if index * step < width - left - 40 else "end"
        shapes.append(
            _text(left + index * step + (0 if anchor == "middle" else 12), height - 8, _short(edges[index]), "", anchor)
        )
    return _svg(width, height, title, shapes)


def curve(title: str, points: Sequence[Sequence[float]], *, width: int = 520, height: int = 200) -> str:
    """A line through points, both axes from 0."""
    if len(points) < 2:
        return ""
    left, top, bottom, right = 46, 12, height - 24, width - 22
    across, up = max(x for x, _ in points), max(y for _, y in points)
    shapes = []
    for part in (0.5, 1.0):
        y = bottom - part * (bottom - top)
        shapes.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(_text(left - 6, y + 4, _short(up * part), "", "end"))
        x = left + part * (right - left)
        shapes.append(_text(x, height - 8, _short(across * part), "", "middle" if part < 1 else "end"))
    shapes.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    places = [(left + x / across * (right - left), bottom - y / up * (bottom - top)) for x, y in [(0, 0), *points]]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return _svg(width, height, title, [*shapes, f'<polyline class="curve" points="{line}"/>'])


def _leaving(kind: str, inner: float, y: float, middle: float, thickness: float) -> str:
    """A band that begins at ``inner``, goes down and turns to the right."""
    outer, upper, lower = inner + thickness, middle - thickness / 2, middle + thickness / 2
    return (
        f'<path class="{kind} soft" d="M{inner:.1f},{y:.1f} L{outer:.1f},{y:.1f} '
        f"C{outer:.1f},{upper:.1f} {outer:.1f},{upper:.1f} {_FLOW_RIGHT},{upper:.1f} "
        f"L{_FLOW_RIGHT},{lower:.1f} "
        f'C{inner:.1f},{lower:.1f} {inner:.1f},{lower:.1f} {inner:.1f},{y:.1f} Z"/>'
    )


def _reasons(row: dict[str, Any]) -> str:
    """``few_words 120, symbols 31`` as far as there is room."""
    all_parts = [f"{reason.removeprefix(row['stage'] + '.')} {times:,}" for reason, times in row["reasons"].items()]
    for shown in range(len(all_parts), 0, -1):
        more = len(all_parts) - shown
        text = ", ".join(all_parts[:shown]) + (f" and {more} more" if more else "")
        if len(text) <= _REASONS_CHARACTERS:
            return text
    return _label(all_parts[0], _REASONS_CHARACTERS)


def _label(text: str, limit: int) -> str:
    text = text.replace("_", " ")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _short(value: float) -> str:
    return human_count(round(value)) if abs(value) >= 1000 else number(float(f"{value:.2g}"))


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    name = f' class="{style}"' if style else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" xml:space="preserve">{escape(text)}</text>'


def _svg(width: float, height: float, title: str, shapes: Sequence[str]) -> str:
    name = escape(title)
    head = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{name}"><title>{name}</title>'
    return "\n".join([head, *shapes, "</svg>"])
