"""Cheap signs of bad generation: a model that loops or repeats itself shows in these numbers before anyone reads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def generation_quality(texts: Sequence[str]) -> dict[str, float]:
    """Diversity of generated texts, over words.

    Args:
        texts: generated texts, without their prompts.

    Returns:
        ``distinct_1`` and ``distinct_2``: different words and word pairs over all of them (Li et al. 2016,
        https://arxiv.org/abs/1510.03055); ``repetition``: the share of word pairs that occurred earlier in the same
        text. Empty texts give zeros.
    """
    words = [text.split() for text in texts]
    pairs = [list(pairwise(text)) for text in words]
    all_words = [word for text in words for word in text]
    all_pairs = [pair for text in pairs for pair in text]
    repeated = sum(len(text) - len(set(text)) for text in pairs)
    return {
        "distinct_1": len(set(all_words)) / max(1, len(all_words)),
        "distinct_2": len(set(all_pairs)) / max(1, len(all_pairs)),
        "repetition": repeated / max(1, len(all_pairs)),
    }
