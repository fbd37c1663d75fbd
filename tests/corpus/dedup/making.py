"""Texts with a known amount in common."""

from __future__ import annotations

import numpy as np
import pytest

from llm_trainer.common.optional import available
from llm_trainer.corpus.dedup.shingles import Int64s

METHODS = [
    pytest.param(
        "suffix_array", marks=pytest.mark.skipif(not available("pydivsufsort"), reason="pydivsufsort is not installed")
    ),
    "windows",
]
"""The two ways of finding repeated text."""


def words(rng: np.random.Generator, count: int) -> list[str]:
    """Words that hardly ever repeat: letters only, so that no normalisation makes two of them equal."""
    letters = rng.integers(ord("a"), ord("z") + 1, (count, 7))
    return ["".join(map(chr, row)) for row in letters.tolist()]


def prose(rng: np.random.Generator, count: int) -> str:
    """A text of so many different words, on lines of ten."""
    found = words(rng, count)
    return "\n".join(" ".join(found[start : start + 10]) for start in range(0, count, 10))


def planted(rng: np.random.Generator, pairs: int, jaccard: float, size: int = 300) -> tuple[np.ndarray, Int64s]:
    """Shingles of ``pairs`` texts and of a near copy of each, with that true similarity.

    Returns:
        (total,) uint32 shingles, originals before copies, and (2 * pairs + 1,) where each text's shingles begin.
    """
    shared = round(2 * size * jaccard / (1 + jaccard))
    common, first, second = (
        rng.integers(0, 2**32, (pairs, count), dtype=np.uint32) for count in (shared, size - shared, size - shared)
    )
    both = np.concatenate([np.concatenate([common, first], axis=1), np.concatenate([common, second], axis=1)])
    return both.ravel(), np.arange(2 * pairs + 1) * size
