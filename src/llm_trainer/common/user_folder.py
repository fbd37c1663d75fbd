"""The folder in which the program keeps things for a person, across runs: what was measured, what they trust."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

FOLDER_VARIABLE = "LLM_TRAINER_CACHE"
"""Names the folder; set to nothing, nothing is kept."""


def cache_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path | None:
    """Where programs keep what they can make again: ``$LLM_TRAINER_CACHE``, ``$XDG_CACHE_HOME/llm-trainer``, or the
    system's place for it. None if nothing is to be kept.

    Args:
        environ: the environment variables.
        platform: as ``sys.platform``.
    """
    if FOLDER_VARIABLE in environ:
        return Path(environ[FOLDER_VARIABLE]) if environ[FOLDER_VARIABLE] else None
    if environ.get("XDG_CACHE_HOME"):
        return Path(environ["XDG_CACHE_HOME"]) / "llm-trainer"
    if platform == "win32" and environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "llm-trainer" / "Cache"
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home, as containers have them
        return None
    return home / ("Library/Caches" if platform == "darwin" else ".cache") / "llm-trainer"
