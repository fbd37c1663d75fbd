"""The comparison of tokenizer trainers runs and finds that ours learn what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.tokenizer.samples import standard_library

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "tokenizer_kinds.py"


def test_our_trainers_learn_what_others_learn(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(standard_library(150_000)), encoding="utf-8")
    command = [sys.executable, BENCHMARK, "--text", tmp_path / "text.txt", "--vocab_size", "900"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    rows = {row["name"]: row for row in json.loads(outcome.stdout.splitlines()[-1])["results"]}
    assert rows["bpe of tokenizers"]["overlap"] > 0.99  # ours has a token for the end of a text in its place
    assert abs(rows["bpe of tokenizers"]["bytes_per_token"] / rows["bpe"]["bytes_per_token"] - 1) < 0.01
    # Of 900 tokens ours has 256 bytes, theirs none.
    assert rows["unigram"]["bytes_per_token"] > 0.9 * rows["unigram of tokenizers"]["bytes_per_token"]
    by_frequency, theirs = rows["wordpiece, by frequency"], rows["wordpiece of tokenizers"]
    assert abs(by_frequency["bytes_per_token"] / theirs["bytes_per_token"] - 1) < 0.01
