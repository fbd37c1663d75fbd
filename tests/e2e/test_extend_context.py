"""The recipe for longer texts runs from end to end on a small data set of long documents."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.covers("R408")
@pytest.mark.timeout(300)
def test_extend_context_prints_a_row_for_every_method_before_and_after(tmp_path: Path) -> None:
    source, texts = random.Random(0), tmp_path / "texts"
    texts.mkdir()
    for number in range(20):
        words = source.choices(["river", "house", "garden", "letter", "morning", "bread", "window"], k=3000)
        (texts / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
    arguments = ["--dataset", texts, "--steps", 2, "--stage_steps", 1, "--vocab_size", 280]
    done = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / "extend_context.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = [
        line.split() for line in done.stdout.splitlines() if line.split(",")[0] in ("none", "linear", "ntk", "yarn")
    ]
    assert len(rows) == 8
    for row in rows:
        assert len(row) == 7 and all(0 < float(loss) < 7 for loss in row[3:])
