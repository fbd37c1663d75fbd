"""Random numbers that depend on a seed and a place only, and on no version of a library."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llm_trainer.common.hashing import mix_seed


def uniforms(count: int, *seed: int | str) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), (count,). NumPy keeps raw output for ever, but may change what generators make of it (NEP 19),
    and a run must be resumable after an upgrade."""
    raw = np.random.PCG64(mix_seed(*seed)).random_raw(count)
    numbers: npt.NDArray[np.float64] = (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) / 2.0**53
    return numbers
