"""Environment variables that PyTorch reads once, at start-up; set before it is imported, and never against a person's
own setting."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path


def setup_environment(
    platform: str = sys.platform, environ: MutableMapping[str, str] = os.environ, folder: Path | None = None
) -> list[str]:
    """Prepare Triton and the CUDA allocator.

    On Windows, Triton's default cache path grows past the path limit and its compiler is often missing, so the cache
    goes to ``.triton_cache`` and kernels are interpreted unless the person has chosen otherwise.

    Args:
        platform: as ``sys.platform``.
        environ: the variables to set.
        folder: where the Triton cache goes; the current folder when left out.

    Returns:
        The names that were set.
    """
    wanted = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}
    if platform == "win32":
        cache = (folder or Path.cwd()) / ".triton_cache"
        wanted |= {"TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "1"}
    missing = {name: value for name, value in wanted.items() if name not in environ}
    if "TRITON_CACHE_DIR" in missing:
        Path(missing["TRITON_CACHE_DIR"]).mkdir(parents=True, exist_ok=True)
    environ.update(missing)
    return sorted(missing)
