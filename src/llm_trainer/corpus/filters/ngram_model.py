"""A byte n-gram language model that scores texts without a neural network: bits per byte against a reference text.

Witten-Bell interpolation from order 1 up (Witten and Bell 1991, https://doi.org/10.1109/18.87000): what a context has
seen is trusted by its count, the rest goes to the next shorter one. Counts lie in hashed tables, so that scoring is a
few array look-ups per order (11 MB/s); collisions make the probabilities approximate, which buckets do not mind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import DataError

ORDER = 5
_JOINT_BITS, _CONTEXT_BITS = 21, 19
_MIX = np.uint64(0x9E3779B97F4A7C15)
REFERENCE_BYTES = 16 << 20
"""Only so much of a reference text is read; more changes the scores by under 1 % and costs a second per 3 MB."""

EMPTY_BITS = 8.0
"""The bits per byte of a text without bytes: those of a model that knows nothing."""


@dataclass(frozen=True)
class _Level:
    joint: npt.NDArray[np.uint32]
    context: npt.NDArray[np.uint32]
    types: npt.NDArray[np.uint32]


class NgramModel:
    """Bytes predicted from the four before them.

    Args:
        reference: the text to learn from, as bytes of UTF-8.
    """

    def __init__(self, reference: bytes) -> None:
        data = np.frombuffer(b"\n" * ORDER + reference, dtype=np.uint8)
        shares = np.bincount(data[ORDER:], minlength=256) / max(1, len(reference))
        # One byte in twenty may be any: a script that the reference lacks costs 12 bits a byte, not 24.
        self._single = 0.95 * shares + 0.05 / 256
        self._levels = [self._count(data, order) for order in range(2, ORDER + 1)]

    @staticmethod
    def _count(data: npt.NDArray[np.uint8], order: int) -> _Level:
        keys = _pack(data, order)[ORDER:]
        joint = np.bincount(_bucket(keys, _JOINT_BITS), minlength=1 << _JOINT_BITS)
        context = np.bincount(_bucket(keys >> np.uint64(8), _CONTEXT_BITS), minlength=1 << _CONTEXT_BITS)
        distinct = _bucket(np.unique(keys) >> np.uint64(8), _CONTEXT_BITS)
        types = np.bincount(distinct, minlength=1 << _CONTEXT_BITS)
        return _Level(joint.astype(np.uint32), context.astype(np.uint32), types.astype(np.uint32))

    def bits_per_byte(self, texts: Sequence[str]) -> list[float]:
        """Mean bits for every byte of every text; lower is more like the reference. Empty: :data:`EMPTY_BITS`."""
        encoded = [text.encode("utf-8", "replace") for text in texts]
        # Every text begins after empty lines, so that nothing of its neighbour is in its contexts.
        data = np.frombuffer(b"".join(b"\n" * ORDER + text for text in encoded), dtype=np.uint8)
        probability = self._single[data]
        for order, level in enumerate(self._levels, start=2):
            keys = _pack(data, order)
            at = _bucket(keys >> np.uint64(8), _CONTEXT_BITS)
            context, types = level.context[at].astype(np.float64), level.types[at]
            joint = np.minimum(level.joint[_bucket(keys, _JOINT_BITS)], context)
            seen = context > 0
            mixed = (joint + types * probability) / np.where(seen, context + types, 1.0)
            probability = np.where(seen, mixed, probability)
        bits = -np.log2(np.maximum(probability, 1e-12))
        scores, start = [], 0
        for text in encoded:
            start += ORDER
            scores.append(float(bits[start : start + len(text)].mean()) if text else EMPTY_BITS)
            start += len(text)
        return scores


def load_ngram_model(path: str | Path) -> NgramModel:
    """Learn from the start of a text file.

    Raises:
        DataError: it cannot be read, or holds too little to learn from.
    """
    try:
        with Path(path).open("rb") as file:
            reference = file.read(REFERENCE_BYTES)
    except OSError as error:
        raise DataError(f"cannot read the reference text {path}: {error}") from None
    if len(reference) < 10_000:
        raise DataError(
            f"the reference text {path} holds {len(reference)} bytes, too few to learn from",
            hint="give at least 100 KB of the text that you call good",
        )
    return NgramModel(reference)


def _pack(data: npt.NDArray[np.uint8], order: int) -> npt.NDArray[np.uint64]:
    """(bytes,): the last ``order`` bytes up to and with each one, the latest in the lowest eight bits."""
    wide = data.astype(np.uint64)
    keys: npt.NDArray[np.uint64] = wide.copy()
    for back in range(1, order):
        keys[back:] |= wide[:-back] << np.uint64(8 * back)
    return keys


def _bucket(keys: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.intp]:
    mixed = keys * _MIX
    buckets: npt.NDArray[np.intp] = ((mixed ^ (mixed >> np.uint64(29))) * _MIX >> np.uint64(64 - bits)).astype(np.intp)
    return buckets
