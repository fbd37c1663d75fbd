"""Which texts are near-copies of each other, so that they never sit on both sides of a train/held-out split.

Held-out text that repeats a training file measures memory, not prediction. Copies in real folders are seldom exact:
a module and its pure-Python twin, a test file and the variant generated from it. They do share most of their *lines*,
and lines can be compared exactly, without a tuned sketch; 30 MB of sources take about two seconds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

MIN_LINE_CHARS = 16
"""Shorter lines (``return None``, ``else:``) say nothing about where a text came from."""

MAX_FILES_PER_LINE = 8
"""A line found in more texts than this is boilerplate (a licence, ``if __name__ == ...``)."""

MIN_SHARED_LINES = 5


def group_near_copies(texts: Sequence[str], *, shared: float = 0.25) -> list[int]:
    """Give every text the number of its group.

    Two texts are near-copies when at least ``shared`` of the distinct, telling lines of the smaller one are in the
    other, and at least ``MIN_SHARED_LINES`` are; the relation is closed transitively.

    Args:
        texts: the texts to compare.
        shared: the share of lines that makes a near-copy, 0..1.

    Returns:
        one number per text: the index of the first text of its group.
    """
    holders: dict[int, list[int]] = defaultdict(list)
    sizes: list[int] = []
    for index, text in enumerate(texts):
        stripped = (line.strip() for line in text.splitlines())
        lines = {hash(line) for line in stripped if len(line) >= MIN_LINE_CHARS}
        sizes.append(len(lines))
        for line in lines:
            holders[line].append(index)

    overlaps: Counter[tuple[int, int]] = Counter()
    for owners in holders.values():
        if 1 < len(owners) <= MAX_FILES_PER_LINE:
            overlaps.update(combinations(owners, 2))

    parents = list(range(len(texts)))
    for (first, second), count in overlaps.items():
        if count >= MIN_SHARED_LINES and count >= shared * min(sizes[first], sizes[second]):
            a, b = _root(parents, first), _root(parents, second)
            parents[max(a, b)] = min(a, b)
    return [_root(parents, index) for index in range(len(texts))]


def _root(parents: list[int], index: int) -> int:
    """Union-find with path halving."""
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index
