"""From bytes to characters: where in a text the tokens come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def byte_offsets(data: bytes, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Character positions of tokens that follow each other in a text.

    Args:
        data: the text as UTF-8.
        sizes: how many bytes each token takes; together all of ``data``.

    Returns:
        (start, end) for each token, in characters. A token that starts or ends inside a character has all of it.

    Raises:
        ValueError: the sizes do not add up to the length of the text.
    """
    ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
    if (int(ends[-1]) if len(ends) else 0) != len(data):
        raise ValueError("the tokens do not cover the text")
    if not data:
        return []
    starts = ends - np.asarray(sizes, dtype=np.int64)
    first_bytes = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80  # not a continuation byte
    character = np.cumsum(first_bytes) - 1  # byte -> character
    first = character[np.minimum(starts, len(data) - 1)].tolist()
    last = (character[np.maximum(ends - 1, 0)] + 1).tolist()
    return list(zip(first, last))
