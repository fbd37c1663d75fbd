"""What the experts of a trained mixture do on texts of several domains: a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import write_text
from llm_trainer.corpus import open_paths
from llm_trainer.models.moe_report import ExpertReport, moe_report, routers
from llm_trainer.tokenizer import Tokenizer
from llm_trainer.workflows.load import load_model

BATCH_TOKENS = 8192
CELL, TOP, GAP = 34, 46, 22
LETTER = 7.5
"""Most that a letter of a name takes on average, in pixels."""


def experts_of_run(
    run: str | None,
    domains: Sequence[str],
    *,
    picture: Path | None = None,
    runs_dir: Path = Path("runs"),
    checkpoint: str = "best",
    device: str = "auto",
    tokens: int = 65536,
) -> str:
    """The table of shares, and how specialised each layer is.

    Args:
        run: a run, or a folder with a model; see :func:`~llm_trainer.workflows.load.load_model`.
        domains: ``NAME=PATH``, a file or folder of text each.
        picture: an SVG file to write.
        runs_dir, checkpoint, device: which model, and where to compute.
        tokens: read of each domain at most.

    Raises:
        UserError: the model has no experts, a domain is no ``NAME=PATH`` or has no text, or the picture has another
            ending.
    """
    places = _parse(domains)
    if picture is not None and picture.suffix.lower() != ".svg":
        raise UserError(f"{picture} is no name for a picture", hint="end it with .svg")
    loaded = load_model(run, runs_dir=runs_dir, checkpoint=checkpoint, device=device)
    if not routers(loaded.model):
        raise UserError(
            f"{loaded.description}: it has no experts", hint="train a mixture of experts with model.use_moe=true"
        )
    target = next(loaded.model.parameters()).device
    length = loaded.model.config.max_seq_len
    batches = {
        name: [batch.to(target) for batch in _batches(path, loaded.tokenizer, length, tokens)]
        for name, path in places.items()
    }
    for name, found in batches.items():
        if not found:
            raise UserError(f"{places[name]} holds no text for the domain {name!r}")
    report = moe_report(loaded.model, batches)
    lines = [loaded.description, "", describe_experts(report)]
    if picture is not None:
        write_text(picture, draw_experts(report) + "\n")
        lines += ["", f"picture: {picture}"]
    return "\n".join(lines)


def describe_experts(report: ExpertReport) -> str:
    """A table: one row for each layer and domain, one column for each expert."""
    width = max(len(name) for name in [*report.layers, "layer"])
    domain = max(len(name) for name in [*report.shares, "domain"])
    count = next(iter(report.shares.values())).shape[1]
    lines = [f"{'layer':<{width}}  {'domain':<{domain}}  " + " ".join(f"{number:>5}" for number in range(count))]
    for row, layer in enumerate(report.layers):
        for name, shares in report.shares.items():
            cells = " ".join(f"{share:>5.0%}" for share in shares[row].tolist())
            lines.append(f"{layer:<{width}}  {name:<{domain}}  {cells}")
    lines += ["", "what the choice of an expert says about the domain, in bits (0: all are routed alike):"]
    bits = zip(report.layers, report.specialisation, strict=True)
    lines += [f"{layer:<{width}}  {value:.3f}" for layer, value in bits]
    read = ", ".join(f"{name} {tokens:,}" for name, tokens in report.tokens.items())
    return "\n".join([*lines, "", f"tokens read: {read}"])


def draw_experts(report: ExpertReport) -> str:
    """The same as an SVG picture: a block of rows for each layer, darker where an expert is chosen more often."""
    count = next(iter(report.shares.values())).shape[1]
    darkest = max(float(shares.max()) for shares in report.shares.values())
    block = GAP + CELL * len(report.shares)
    left = 24 + math.ceil(LETTER * max(map(len, [*report.shares, *report.layers])))
    width, height = left + CELL * count + 20, TOP + block * len(report.layers) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Share of each expert in the choices, by layer and domain</title>",
        "<style>text { font: 12px system-ui, sans-serif; fill: #1b2330; } .cell { font-size: 10px; }</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    parts += [
        f'<text x="{left + CELL * number + CELL // 2}" y="20" text-anchor="middle">{number}</text>'
        for number in range(count)
    ]
    for row, layer in enumerate(report.layers):
        top = TOP + block * row
        parts.append(f'<text x="8" y="{top - 6}" font-weight="600">{escape(layer)}</text>')
        for line, (name, shares) in enumerate(report.shares.items()):
            y = top + CELL * line
            parts.append(f'<text x="8" y="{y + CELL // 2 + 4}">{escape(name)}</text>')
            for number, share in enumerate(shares[row].tolist()):
                parts += _cell(left + CELL * number, y, share, share / darkest)
    return "\n".join([*parts, "</svg>"])


def _cell(x: int, y: int, share: float, strength: float) -> list[str]:
    light = "#fff" if strength > 0.6 else "#1b2330"
    return [
        f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" fill="#2563c9" fill-opacity="{strength:.3f}"/>',
        f'<text class="cell" x="{x + CELL // 2 - 1}" y="{y + CELL // 2 + 3}" text-anchor="middle" '
        f'style="fill:{light}">{share:.0%}</text>',
    ]


def _parse(domains: Sequence[str]) -> Mapping[str, str]:
    places: dict[str, str] = {}
    for word in domains:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise UserError(f"--domain {word!r}: expected NAME=PATH, such as code=src/")
        if name in places:
            raise UserError(f"--domain {name}: given twice")
        places[name] = path
    if not places:
        raise UserError("no domain is given", hint="name two or more: --domain code=src/ --domain prose=books/")
    return places


def _batches(path: str, tokenizer: Tokenizer, length: int, tokens: int) -> Iterator[Tensor]:
    """The text of a file or folder as full rows of ``length`` tokens, or one shorter row if there is no more."""
    ids: list[int] = []
    for document in open_paths([path], validation_fraction=0):
        ids += [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        ids += tokenizer.encode(document.text)
        if len(ids) >= tokens:
            break
    ids = ids[:tokens]
    whole = len(ids) // length
    if not whole:
        yield from [torch.tensor([ids])] if ids else []
        return
    rows = torch.tensor(ids[: whole * length]).view(whole, length)
    yield from torch.split(rows, max(1, BATCH_TOKENS // length))
