"""Runs as text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from llm_trainer.common.files import human_bytes
from llm_trainer.monitoring.naming import human_count
from llm_trainer.monitoring.runs import RunInfo, list_checkpoints, run_info

HEADERS = ("run", "state", "step", "loss", "bits/byte", "params", "last sign", "size")


def runs_table(runs: Sequence[RunInfo]) -> str:
    """One line a run, columns aligned; plain text, so that it can be piped."""
    rows = [HEADERS, *map(_row, runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADERS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def run_card(folder: Path) -> str:
    """Everything a listing knows about one run, and its checkpoints."""
    run = run_info(folder)
    lines = [f"{header:<10} {value}" for header, value in zip(HEADERS, _row(run))]
    if run.message:
        lines.append(f"{'message':<10} {run.message}")
    for checkpoint in list_checkpoints(folder):
        lines += [f" {checkpoint.label}", f"    {checkpoint.line} | {human_bytes(checkpoint.size)}"]
    return "\n".join(lines)


def _row(run: RunInfo) -> tuple[str, ...]:
    return (
        run.name,
        run.state,
        "-" if run.step is None else f"{run.step:,}",
        "-" if run.loss is None else f"{run.loss:.4f}",
        "-" if run.bits_per_byte is None else f"{run.bits_per_byte:.4f}",
        "-" if run.parameters is None else human_count(run.parameters),
        f"{datetime.fromtimestamp(run.time):%Y-%m-%d %H:%M}",
        human_bytes(run.size),
    )
