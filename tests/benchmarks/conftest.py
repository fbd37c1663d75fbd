"""The benchmarks are scripts that import each other by name; tests find them after everything that is installed."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# At the end, not at the front: a script may be called like an installed package.
sys.path.append(str(BENCHMARKS))
