"""What start-up tuning found on this machine before: one small JSON file in the user's cache folder.

Nothing depends on it. A file that is missing, damaged or unwritable costs the seconds of measuring again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import read_json, write_json

FOLDER_VARIABLE = "LLM_TRAINER_CACHE"
"""Names the folder; set to nothing, nothing is kept."""
FILE = "tuning.json"
MOST_ENTRIES = 200


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


class TuningCache:
    """Entries by key.

    Args:
        folder: holds the file; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / FILE
        self.problems: list[str] = []
        """Why the file could not be read or written, as sentences."""

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The entry of ``key``, if there is one that can be read."""
        entry = self._read().get(key)
        return entry if isinstance(entry, dict) else None

    def put(self, key: str, entry: Mapping[str, Any]) -> None:
        """Keep ``entry``, and the newest of the others."""
        if self._path is None:
            return
        entries = {name: value for name, value in self._read().items() if name != key}
        kept = dict(list(entries.items())[-(MOST_ENTRIES - 1) :])
        try:
            write_json(self._path, {**kept, key: dict(entry)})
        except (UserError, OSError) as error:
            self._note(f"nothing was kept for the next run: {error}")

    def _read(self) -> dict[str, Any]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            entries = read_json(self._path)
        except (UserError, OSError) as error:
            self._note(f"what was measured before is not used: {error}")
            return {}
        if not isinstance(entries, dict):
            self._note(f"what was measured before is not used: {self._path} holds no table")
            return {}
        return entries

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
