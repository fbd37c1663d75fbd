"""The benchmark of whole builds runs, and its synthetic documents meet every stage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("orjson")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "corpus_build.py"


@pytest.mark.slow
def test_synthetic_documents_go_through_every_stage(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARK, "--documents", "3000", "--rounds", "0", "--gigabytes", "0.02"]
    outcome = subprocess.run([*command, "--folder", tmp_path], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout.splitlines()[-1])
    run = result["documents"]["runs"]["2"][0]
    documents = run["documents"]
    assert documents["records"] == 3000 == documents["kept"] + documents["dropped"]
    assert documents["kept"] > 1500
    assert {"exact", "near", "passages"} <= run["duplicates"].keys()
    assert {"read", "clean", "redact", "decontaminate", "tag language", "tag c4"} <= run["steps"].keys()
    assert result["memory"]["memory_mb"] < 1500
