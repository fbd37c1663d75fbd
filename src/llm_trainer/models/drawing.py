"""A drawing of a model's architecture: one SVG that carries its own colours, for light and for dark pages.

The drawing is laid out here, without any other library: boxes in a column, top to bottom as the numbers flow, lines
around them for the residual stream, and beside them where the parameters are. It says what the configuration says; the
sizes are counted on the model itself, which may be on the meta device.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field

from llm_trainer.config import ModelConfig
from llm_trainer.models.base import BaseLanguageModel
from llm_trainer.models.components import DATA, Blocks, Box, components
from llm_trainer.models.parts import (
    ATTENTION,
    EMBEDDING,
    FEED_FORWARD,
    HEAD,
    NORM,
    OTHER,
    parameters_by_part,
)

BOX_WIDTH, BOX_HEIGHT, GAP = 300.0, 46.0, 18.0
MARGIN, RAIL, GUTTER = 28.0, 34.0, 64.0
PANEL_WIDTH = 300.0
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 14.0, 13.0, 11.0
LETTER, BOLD_LETTER = 0.6, 0.68
"""Width of a letter on average, in sizes of the font, in the widest of the usual fonts; long texts are set smaller, so
that they never leave a box."""
COLOURS = {
    EMBEDDING: ("#dbe9fb", "#24476f", "#3b78c2"),
    ATTENTION: ("#fde3cf", "#6b3d17", "#d9782d"),
    FEED_FORWARD: ("#d9f0dd", "#1f5430", "#3f9a57"),
    NORM: ("#ececec", "#4a4a4a", "#8a8a8a"),
    HEAD: ("#ecdff7", "#4d2a70", "#8a56bd"),
    OTHER: ("#f6e9b8", "#5c4c0d", "#b89a22"),
    DATA: ("#ffffff", "#171a20", "#9aa1ad"),
}
"""Part -> fill on a light page, fill on a dark page, and the edge, which is the same on both."""
_CLASS = {part: f"p{index}" for index, part in enumerate(COLOURS)}


@dataclass
class Canvas:
    """Elements of the drawing, and how far down they reach."""

    elements: list[str] = field(default_factory=list)
    height: float = 0.0

    def add(self, element: str, bottom: float) -> None:
        """One more element, which ends at ``bottom``."""
        self.elements.append(element)
        self.height = max(self.height, bottom)

    def text(
        self, x: float, y: float, text: str, *, size: float = TEXT_SIZE, room: float = BOX_WIDTH, style: str = ""
    ) -> None:
        """A line of text that is at most ``room`` wide; ``style`` is one or more classes."""
        letter = BOLD_LETTER if "title" in style.split() else LETTER
        size = min(size, room / (letter * max(1, len(text))))
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" class="{style}">{html.escape(text)}</text>', y)

    def line(self, points: list[tuple[float, float]], *, arrow: bool = False, style: str = "line") -> None:
        """A line through points, with an arrow at its end or without."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        end = ' marker-end="url(#arrow)"' if arrow else ""
        self.add(f'<polyline points="{path}" class="{style}"{end}/>', max(y for _, y in points))

    def box(self, x: float, y: float, box: Box) -> None:
        """A component, its upper left corner at (x, y)."""
        self.add(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7" '
            f'class="box {_CLASS[box.part]}"/>',
            y + BOX_HEIGHT,
        )
        count = short_count(box.parameters) if box.parameters else ""
        room = BOX_WIDTH - 24 - 8 * len(count)
        self.text(x + 12, y + 20, box.title, room=room, style="title")
        self.text(x + 12, y + 37, box.detail, size=SMALL_SIZE, room=BOX_WIDTH - 24, style="detail")
        if count:
            self.text(x + BOX_WIDTH - 12, y + 20, count, size=SMALL_SIZE, style="count end")


def draw_model(model: BaseLanguageModel, title: str) -> str:
    """The drawing of a model, as the text of an SVG file.

    Args:
        model: of any family; on the meta device it needs no memory.
        title: what it is called.
    """
    config, canvas = model.config, Canvas()
    top = 86.0
    encoder, decoder = components(model)
    left = MARGIN + RAIL
    column = BOX_WIDTH + RAIL + MARGIN
    if encoder and decoder:
        ends: list[tuple[float, float]] = []
        _draw_column(canvas, left, top, encoder, rail_left=True, ends=ends)
        right = left + BOX_WIDTH + GUTTER
        crossings: list[float] = []
        _draw_column(canvas, right, top, decoder, rail_left=False, crossings=crossings)
        _draw_memory(canvas, left + BOX_WIDTH, ends[-1][1], right, crossings)
        panel = right + column
    else:
        _draw_column(canvas, left, top, encoder or decoder, rail_left=True)
        panel = left + column
    _draw_panel(canvas, panel, top, model)
    width = panel + PANEL_WIDTH + MARGIN
    canvas.text(MARGIN, 40, title, size=22, room=width - 2 * MARGIN, style="title")
    canvas.text(MARGIN, 62, _subtitle(config, model), size=TEXT_SIZE, room=width - 2 * MARGIN, style="detail")
    height = canvas.height + MARGIN
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
            f'height="{height:.0f}" role="img" aria-label="{html.escape(title, quote=True)}: architecture">',
            f"<style>{_style()}</style>",
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0,0.5 L7.5,4 L0,7.5 z" class="head"/></marker></defs>',
            f'<rect width="{width:.0f}" height="{height:.0f}" rx="12" class="page"/>',
            *canvas.elements,
            "</svg>",
        )
    )


def draw_page(svg: str, title: str, text: str) -> str:
    """A page of its own with the drawing and, below it, ``text`` as it is."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        'content="light dark"><style>body{margin:24px;font-family:system-ui,sans-serif;background:#f4f5f7;color:#222}'
        "svg{max-width:100%;height:auto}pre{overflow-x:auto;font-size:13px;line-height:1.45}"
        "@media(prefers-color-scheme:dark){body{background:#101216;color:#ddd}}</style></head><body>\n"
        f"{svg}\n<pre>{html.escape(text)}</pre>\n</body></html>\n"
    )


def short_count(number: int) -> str:
    """``38597376`` -> ``'38.6 M'``."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _subtitle(config: ModelConfig, model: BaseLanguageModel) -> str:
    layers = f"{config.n_layers} blocks"
    if config.family == "encoder_decoder":
        layers = f"{config.encoder_layers} + {config.n_layers} blocks"
    family = config.family.replace("_", "-")
    size = f"width {config.d_model:,}, context {config.max_seq_len:,}"
    return f"{family}, {model.num_parameters():,} parameters, {layers}, {size}"


def _draw_column(
    canvas: Canvas,
    x: float,
    y: float,
    items: list[Box | Blocks],
    *,
    rail_left: bool,
    ends: list[tuple[float, float]] | None = None,
    crossings: list[float] | None = None,
) -> None:
    """Boxes and blocks below each other, joined by arrows.

    Args:
        canvas: gets the elements.
        x: left edge of the boxes.
        y: where the column starts.
        items: from top to bottom.
        rail_left: on which side residual lines run.
        ends: gets the middle of the last box.
        crossings: gets the height of every cross-attention.
    """
    middle = x + BOX_WIDTH / 2
    for index, item in enumerate(items):
        if index:
            canvas.line([(middle, y - GAP), (middle, y - 1)], arrow=True)
        if isinstance(item, Box):
            canvas.box(x, y, item)
            if ends is not None:
                ends.append((middle, y + BOX_HEIGHT / 2))
            y += BOX_HEIGHT + GAP
        else:
            y = _draw_blocks(canvas, x, y, item, rail_left=rail_left, crossings=crossings) + GAP
            if ends is not None:
                ends.append((middle, y - GAP - 24))


def _draw_blocks(
    canvas: Canvas, x: float, y: float, blocks: Blocks, *, rail_left: bool, crossings: list[float] | None
) -> float:
    """A repeated block in a frame, from ``y`` on; returns where the frame ends."""
    middle, start = x + BOX_WIDTH / 2, y
    rail = x - RAIL / 2 if rail_left else x + BOX_WIDTH + RAIL / 2
    place = len(canvas.elements)
    y += 34  # room for the number of repetitions
    canvas.line([(middle, start), (middle, y + 13)], arrow=True)
    for number, sublayer in enumerate(blocks.sublayers):
        canvas.line([(middle, y), (rail, y)])
        leaves = y
        y += 14
        for index, box in enumerate(sublayer.boxes):
            if index:
                canvas.line([(middle, y - GAP), (middle, y - 1)], arrow=True)
            canvas.box(x, y, box)
            if crossings is not None and box.title == "cross-attention":
                crossings.append(y + BOX_HEIGHT / 2)
            y += BOX_HEIGHT + GAP
        centre = y - GAP + 24
        canvas.line([(middle, y - GAP), (middle, centre - 9)], arrow=True)
        canvas.line([(rail, leaves), (rail, centre), (middle + (-9 if rail_left else 9), centre)], arrow=True)
        canvas.add(f'<circle cx="{middle:.1f}" cy="{centre:.1f}" r="9" class="sum"/>', centre + 9)
        canvas.line([(middle - 5, centre), (middle + 5, centre)])
        canvas.line([(middle, centre - 5), (middle, centre + 5)])
        y = centre + 9
        for box in sublayer.after:
            y += GAP
            canvas.line([(middle, y - GAP), (middle, y - 1)], arrow=True)
            canvas.box(x, y, box)
            y += BOX_HEIGHT
        if number < len(blocks.sublayers) - 1:
            canvas.line([(middle, y), (middle, y + 14 + 13)], arrow=True)
            y += 14
    y += 14
    canvas.line([(middle, y - 14), (middle, y)])
    left = x - RAIL if rail_left else x - 14
    width = BOX_WIDTH + RAIL + 14
    frame = f'<rect x="{left:.1f}" y="{start:.1f}" width="{width:.1f}" height="{y - start:.1f}" rx="12" class="frame"/>'
    canvas.elements.insert(place, frame)
    where = x + BOX_WIDTH if rail_left else x
    word = "block" if blocks.count == 1 else "blocks"
    canvas.text(where, start + 21, f"{blocks.count} {word}", style="title end" if rail_left else "title")
    for line, note in enumerate(blocks.notes):
        room = BOX_WIDTH / 2 + RAIL - 24
        canvas.text(left + 12, start + 16 + 13 * line, note, size=SMALL_SIZE, room=room, style="detail")
    return y


def _draw_memory(canvas: Canvas, start: float, height: float, end: float, crossings: list[float]) -> None:
    """From the end of the encoder into every cross-attention."""
    lane = start + GUTTER / 2 - 4
    for crossing in crossings:
        canvas.line(
            [(start, height), (lane, height), (lane, crossing), (end - 1, crossing)], arrow=True, style="memory"
        )


def _draw_panel(canvas: Canvas, x: float, y: float, model: BaseLanguageModel) -> None:
    """Where the parameters are, as bars, and what a token costs."""
    parts, total = parameters_by_part(model), model.num_parameters()
    canvas.text(x, y + 14, "Parameters by part", size=TITLE_SIZE, style="title")
    y += 30
    for part, count in sorted(parts.items(), key=lambda item: -item[1]):
        share = count / total
        canvas.text(x, y + 12, part, room=110, style="detail")
        canvas.text(x + PANEL_WIDTH - 70, y + 12, short_count(count), room=90, style="count end")
        percent = f"{share:.1%}" if share >= 0.0005 else "< 0.1%"
        canvas.text(x + PANEL_WIDTH, y + 12, percent, room=60, style="count end")
        canvas.add(
            f'<rect x="{x:.1f}" y="{y + 19:.1f}" width="{PANEL_WIDTH}" height="8" rx="4" class="track"/>', y + 27
        )
        canvas.add(
            f'<rect x="{x:.1f}" y="{y + 19:.1f}" width="{max(2.0, share * PANEL_WIDTH):.1f}" height="8" rx="4" '
            f'class="bar {_CLASS[part]}"/>',
            y + 27,
        )
        y += 40
    y += 12
    canvas.text(x, y + 14, "Per token", size=TITLE_SIZE, style="title")
    y += 24
    for name, value in token_costs(model).items():
        canvas.text(x, y + 14, name, room=170, style="detail")
        canvas.text(x + PANEL_WIDTH, y + 14, value, room=125, style="count end")
        y += 22


def token_costs(model: BaseLanguageModel) -> dict[str, str]:
    """What one token costs, name -> figure with its unit."""
    config = model.config
    flops = short_count(model.flops_per_token(config.max_seq_len)).replace("B", "G")
    costs = {"training, forward and back": f"{flops}FLOP"}
    if config.family != "encoder":
        cache = 2 * config.n_layers * config.kv_heads * config.head_dim * 2
        costs["key-value cache, 16 bits"] = f"{cache:,} bytes"
    active = model.num_active_parameters()
    if active != model.num_parameters():
        costs["parameters it meets"] = short_count(active)
    return costs


def _style() -> str:
    light = "".join(f".{_CLASS[part]}{{fill:{fill};stroke:{edge}}}" for part, (fill, _, edge) in COLOURS.items())
    dark = "".join(f".{_CLASS[part]}{{fill:{fill}}}" for part, (_, fill, _) in COLOURS.items())
    bars = "".join(f".bar.{_CLASS[part]}{{fill:{edge};stroke:none}}" for part, (_, _, edge) in COLOURS.items())
    return (
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#22262e}"
        ".title{font-weight:600}.detail{fill:#4c5362}.count{fill:#4c5362;font-variant-numeric:tabular-nums}"
        ".end{text-anchor:end}.page{fill:#fff}.box{stroke-width:1.2}.frame{fill:#f6f7f9;stroke:#c4c9d2;"
        "stroke-dasharray:5 4}.track{fill:#e9ebef}.line,.memory{fill:none;stroke:#7a8290;stroke-width:1.4}"
        ".memory{stroke:#d9782d;stroke-dasharray:6 3}.sum{fill:#fff;stroke:#7a8290;stroke-width:1.4}.head{fill:#7a8290}"
        f"{light}"
        "@media (prefers-color-scheme:dark){text{fill:#e7e9ee}.detail,.count{fill:#b4bac6}.page{fill:#171a20}"
        ".frame{fill:#1d2129;stroke:#444b58}.track{fill:#2a2f39}.line{stroke:#8b93a3}.sum{fill:#171a20;stroke:#8b93a3}"
        f".head{{fill:#8b93a3}}{dark}}}"
        f"{bars}"
    )
