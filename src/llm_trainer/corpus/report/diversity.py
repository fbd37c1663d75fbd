"""How varied texts are, measured on a small sample that is the same in every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import regex

WORDS_OF_A_DOCUMENT = 200
"""Only the start of each sampled document counts, or one long book would be the whole sample."""
_POINTS = 20
_GRAM = 4
_WORD = regex.compile(r"\w+")


def opening(text: str) -> str:
    """The part of a text that the sample keeps: its first words, in lower case, one space between them."""
    # 20 characters to a word, or a text without spaces would be kept whole.
    found = _WORD.finditer(text, 0, 20 * WORDS_OF_A_DOCUMENT)
    return " ".join(match.group().casefold() for match in islice(found, WORDS_OF_A_DOCUMENT))


def measure_diversity(openings: Sequence[str]) -> dict[str, Any]:
    """Figures of a sample of openings.

    Returns:
        ``documents``, ``words`` and ``word_types`` (different words) of the sample; ``curve``: (words read, types so
        far) at 20 places, which flattens early where texts repeat each other (Heaps' law); ``four_grams`` and
        ``unique_four_grams``: the share of runs of four words that occur once in the sample. Runs do not cross
        documents.
    """
    seen: set[str] = set()
    grams: Counter[tuple[str, ...]] = Counter()
    growth: list[int] = []
    for text in openings:
        words = text.split()
        for word in words:
            seen.add(word)
            growth.append(len(seen))
        grams.update(zip(*(words[start:] for start in range(_GRAM))))
    places = sorted({max(1, len(growth) * step // _POINTS) for step in range(1, _POINTS + 1)}) if growth else []
    total = grams.total()
    return {
        "documents": len(openings),
        "words": len(growth),
        "word_types": len(seen),
        "curve": [[place, growth[place - 1]] for place in places],
        "four_grams": total,
        "unique_four_grams": sum(times == 1 for times in grams.values()) / total if total else None,
    }
