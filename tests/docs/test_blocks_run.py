"""What the documentation shows runs as it stands: every bash and python block of a page, in order, without a network.

Python blocks that follow each other are one program, as in a notebook.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, README, blocks, page_id

SECONDS = 240
RUNNING = [
    DOCS / "getting_started.md",
    DOCS / "concepts" / "tokenizer.md",
    DOCS / "how_to" / "build_a_corpus.md",
    DOCS / "how_to" / "custom_components.md",
    DOCS / "how_to" / "use_with_transformers.md",
    DOCS / "reference" / "old_names.md",
    README,
]


def programs(page: Path) -> list[tuple[str, str]]:
    """``("bash" | "python", code)`` in order, neighbouring Python blocks joined."""
    joined: list[tuple[str, str]] = []
    for block in blocks(page):
        if block.language not in ("bash", "python"):
            continue
        if block.language == "python" and joined and joined[-1][0] == "python":
            joined[-1] = ("python", f"{joined[-1][1]}\n{block.code}")
        else:
            joined.append((block.language, block.code))
    return joined


@pytest.mark.slow
@pytest.mark.covers("R431", "R441")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUNNING, ids=page_id)
def test_blocks_run_as_they_stand(page: Path, tmp_path: Path) -> None:
    if page.name == "use_with_transformers.md":
        pytest.importorskip("transformers")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    there_are = programs(page)
    assert there_are
    for language, code in there_are:
        start = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = subprocess.run(
            [*start, code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
