"""What start-up tuning found on this machine before: one small JSON file in the user's cache folder.

Nothing depends on it. A file that is missing, damaged or unwritable costs the seconds of measuring again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import read_json, write_json

FILE = "tuning.json"
MOST_ENTRIES = 200


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
